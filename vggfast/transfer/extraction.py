"""From settings to a folder of features: networks, images, shards, manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from vggfast.backends import clear_weights, exact
from vggfast.data.base import require
from vggfast.engine.claim import claim
from vggfast.engine.settings import DTYPES
from vggfast.engine.world import World, join
from vggfast.errors import InputError
from vggfast.evaluation.posteriors import images_a_pass
from vggfast.evaluation.progress import Progress
from vggfast.evaluation.reading import by_size, to_input
from vggfast.evaluation.scales import test_scales
from vggfast.evaluation.scores import file_hash
from vggfast.evaluation.sharing import decide
from vggfast.transfer import store
from vggfast.transfer.collection import open_collection, parse
from vggfast.transfer.descriptors import combine, mean_activations
from vggfast.transfer.layers import layer, width
from vggfast.transfer.plan import Plan, plan
from vggfast.transfer.settings import Settings
from vggfast.transfer.store import Rows, Shard
from vggfast.transfer.views import View, stream
from vggfast.weights import Weights, load_weights

Views = Iterator[tuple[list[View], str | None]]


class ExtractionError(RuntimeError):
    """A network gives features that are not finite."""


@dataclass(frozen=True)
class Summary:
    """What an extraction has written.

    Attributes:
        folder: where.
        records: how many vectors there are.
        dimension: of a vector.
        skipped: names of images that could not be read, and have no vector.
        shards: how many there are.
        made: how many of them were made now; the others were there.
    """

    folder: str
    records: int
    dimension: int
    skipped: tuple[str, ...]
    shards: int
    made: int


def run(settings: Settings, progress: Progress | None = None) -> Summary | None:
    """Extract; see :func:`vggfast.features.extract`. None in all but the first process."""
    threads = torch.get_num_threads()
    held: list[IO[bytes]] = []
    try:
        torch.set_num_threads(settings.threads or threads)
        # Not inference_mode: what is made of its weights cannot be kept from pass to pass.
        with join() as world, exact(settings.exact), torch.no_grad():
            shown = progress if progress is not None and world.first else Progress()
            with world.together():
                work = Extraction(settings, world, shown)
            todo, done = decide(world, lambda: work.prepare(held))
            with world.together():
                work.check(done)
                work.make(todo)
            with world.together():
                return work.finish(len(todo)) if world.first else None
    finally:
        for file in held:
            file.close()
        if progress is not None:
            progress.close()
        clear_weights()
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Net:
    path: str
    hash: str
    weights: Weights
    scales: tuple[int, ...]
    maps: Callable[[Tensor], Tensor]
    width: int


class Extraction:
    """One run: everything is opened and checked here, before hours of work."""

    def __init__(self, settings: Settings, world: World, progress: Progress) -> None:
        self.settings, self.world, self.progress = settings, world, progress
        if settings.format == "parquet":
            require("pyarrow.parquet", "pyarrow")
        self.collection = open_collection(
            settings.data, parts=settings.part, boxes=settings.boxes, limit=settings.limit
        )
        self.regions = self._regions()
        self.device = world.place(settings.torch_device)
        self.nets = [self._net(path) for path in settings.weights]
        self.scales = sorted({scale for net in self.nets for scale in net.scales})
        self.folder = Path(settings.out)
        self.count = -(-len(self.collection.records) // settings.shard_size)

    def prepare(self, held: list[IO[bytes]]) -> tuple[list[int], dict[int, Shard]]:
        """The shards to be made, and those that are there; the manifest, held while this runs.

        Raises:
            InputError: the folder is another run's, or cannot be written.
        """
        path = self.folder / store.MANIFEST
        fresh = self._manifest()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            known: list[Shard] = []
            if path.is_file():
                if (file := claim(path, "extracting")) is not None:
                    file.close()  # what is held is the manifest that this run writes
                before = store.read_manifest(self.folder)
                self._check_same(before["settings"], fresh["settings"])
                known = store.shards_of(before)
            elif found := sorted(self.folder.glob("shard-*")):
                raise InputError(
                    f"out: {self.folder} holds {found[0].name} but no {store.MANIFEST}; allowed is "
                    "another folder"
                )
            for half in self.folder.glob(".*.new"):  # of a run that was killed while it wrote
                half.unlink()
            done = {
                number: shard
                for number, shard in enumerate(known)
                if shard.file and (self.folder / shard.file).is_file()
            }
            done |= store.finished(self.folder, self.settings.format, self.count)
            todo = [number for number in range(self.count) if number not in done]
            if todo or not known:
                for number, shard in done.items():  # what the manifest of a whole run knew
                    sidecar = self.folder / store.shard_name(number, "json")
                    if not sidecar.is_file():
                        store.write_json(sidecar, asdict(shard))
                store.write_json(path, fresh)
                if (file := claim(path, "extracting")) is not None:
                    held.append(file)
        except OSError as error:
            raise InputError(
                f"out: cannot write to {self.folder} ({error.strerror}); allowed is a folder that "
                "can be written to"
            ) from None
        if done:
            self.progress.note(f"{self.folder}: {len(done)} of {self.count} shards are there")
        return todo, done

    def check(self, done: dict[int, Shard]) -> None:
        """Look at the checksums of this process's share of the shards that are there."""
        for shard in list(done.values())[self.world.rank :: self.world.size]:
            store.verify(self.folder / shard.file, shard)

    def make(self, todo: list[int]) -> None:
        """Make this process's share of the shards."""
        settings = self.settings
        records, size = self.collection.records, settings.shard_size
        plans = [
            plan(number, size, records, self.regions)
            for number in todo[self.world.rank :: self.world.size]
        ]
        tasks = [task for p in plans for task in p.tasks]
        nets = " + ".join(net.weights.net for net in self.nets)
        scales = ",".join(map(str, self.scales))
        self.progress.start(f"{nets} {settings.layer}, Q = {scales}", len(tasks) * self.world.size)
        # One stream for all shards: workers read on while a shard is written.
        views = stream(
            self.collection.pictures, tasks, self.scales, workers=settings.workers,
            skip=settings.on_bad_image == "skip",
        )  # fmt: skip
        start = 0
        for p in plans:
            rows, skipped = self._rows(p, islice(views, len(p.tasks)), start)
            path = self.folder / store.shard_name(p.number, settings.format)
            store.write_shard(path, rows, skipped)
            start += len(p.tasks)
            self.progress.note(f"{path.name}: {len(rows.names)} vectors")
        self.progress.end()

    def finish(self, made: int) -> Summary:
        """Take the shards into the manifest, if they are not in it already."""
        manifest = store.read_manifest(self.folder)
        if not manifest["complete"]:
            found = store.finished(self.folder, self.settings.format, self.count)
            lost = [number for number in range(self.count) if number not in found]
            if lost:
                name = store.shard_name(lost[0], self.settings.format)
                raise InputError(
                    f"out: {self.folder / name} has gone while others were made; extract again"
                )
            shards = [found[number] for number in range(self.count)]
            manifest |= {"complete": True, "shards": [asdict(shard) for shard in shards]}
            try:
                store.write_json(self.folder / store.MANIFEST, manifest)
                for number in found:
                    (self.folder / store.shard_name(number, "json")).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"out: cannot write to {self.folder} ({error})") from None
        shards = store.shards_of(manifest)
        return Summary(
            str(self.folder), sum(s.records for s in shards), manifest["dimension"],
            tuple(name for s in shards for name in s.skipped), len(shards), made,
        )  # fmt: skip

    def _regions(self) -> list[str]:
        boxes = self.collection.records.boxes is not None
        region = self.settings.region or ("box" if boxes else "image")
        if region != "image" and not boxes:
            raise InputError(
                f"region: got {region!r} for images without boxes, allowed is image, or --boxes"
            )
        return ["image", "box"] if region == "both" else [region]

    def _net(self, name: str) -> _Net:
        path, settings = Path(name), self.settings
        weights = load_weights(path, backend=settings.backend)
        scales = test_scales(settings.scales, weights.scale, weights.crop)
        maps, columns = layer(weights.model, settings.layer), width(weights.model, settings.layer)
        weights.model.to(self.device, DTYPES[settings.dtype])
        return _Net(name, file_hash(path), weights, scales, maps, columns)

    def _manifest(self) -> dict[str, Any]:
        settings, collection = self.settings, self.collection
        kind, place = parse(settings.data)
        parts = [
            {"net": net.weights.net, "weights": net.hash, "region": region, "scales": list(scales),
             "columns": net.width}
            for net in self.nets
            for region in self.regions
            for scales in (
                [net.scales] if settings.combine == "average" else [(q,) for q in net.scales]
            )
        ]  # fmt: skip
        return {
            "vggfast_features": store.FORMAT,
            "complete": False,
            "settings": {
                "weights": [net.hash for net in self.nets],
                "net": [net.weights.net for net in self.nets],
                "scales": [list(net.scales) for net in self.nets],
                "layer": settings.layer,
                "combine": settings.combine,
                "normalise": settings.normalise,
                "flips": settings.mirrors,
                "region": self.regions,
                "data": f"{kind}:{os.path.abspath(place)}" if place else kind,
                "part": settings.part,
                "records": collection.records.digest(),
                "format": settings.format,
                "shard_size": settings.shard_size,
                "dtype": settings.dtype,
                "on_bad_image": settings.on_bad_image,
            },
            "files": [net.path for net in self.nets],
            "kind": kind,
            "classes": list(collection.classes),
            "dimension": sum(part["columns"] for part in parts),
            "parts": parts,
            "shards": [],
        }

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name, value in now.items():
            if before.get(name) != value:
                raise InputError(
                    f"out: {self.folder} was begun with {name} {_shown(before.get(name))}, not "
                    f"{_shown(value)}; allowed are the same settings, or another folder"
                )

    def _rows(self, p: Plan, views: Views, start: int) -> tuple[Rows, tuple[str, ...]]:
        """The content of a shard; ``start``: the number of its first task in ``views``."""
        settings, count = self.settings, sum(len(task.views) for task in p.tasks)
        found = [
            {q: np.zeros((count, net.width), np.float32) for q in net.scales} for net in self.nets
        ]
        crop = max(net.weights.crop for net in self.nets)
        batch = settings.pass_size(self.device, crop)
        bad: dict[int, str] = {}

        def most(height: int, width: int) -> int:
            return images_a_pass(height, width, crop, settings.mirrors, batch)

        for group in by_size(self._readable(p, views, bad), most):
            for net, by_scale in zip(self.nets, found, strict=True):
                mine = [view for view in group if view.scale in by_scale]
                if mine:
                    means = self._means(net, mine, p, start)
                    for view, row in zip(mine, means, strict=True):
                        by_scale[view.scale][p.first[view.task - start] + view.number] = row
        kept = ~np.isin(p.task, list(bad))
        parts = [
            np.stack([by_scale[q][p.views[region][kept]] for q in net.scales])
            for net, by_scale in zip(self.nets, found, strict=True)
            for region in range(len(self.regions))
        ]
        features = combine(parts, settings.combine, normalise=settings.normalise)
        records = self.collection.records.take(p.rows[kept].tolist())
        rows = Rows(
            p.rows[kept], records.names, records.labels, records.parts, records.boxes, features
        )
        return rows, tuple(bad.values())

    def _readable(self, p: Plan, views: Views, bad: dict[int, str]) -> Iterator[View]:
        for number, (found, reason) in enumerate(views):
            if reason is not None:
                bad[number] = self.collection.pictures.name(p.tasks[number].picture)
                self.progress.note(f"skipped: {reason}")
            yield from found
            self.progress.step(self.world.size)

    def _means(self, net: _Net, views: list[View], p: Plan, start: int) -> np.ndarray:
        weights, settings = net.weights, self.settings
        x = to_input(views, weights.mean, weights.std, self.device, DTYPES[settings.dtype])
        means: np.ndarray = mean_activations(net.maps, x, flips=settings.mirrors).cpu().numpy()
        finite = np.isfinite(means).all(1)
        if not finite.all():
            picture = p.tasks[views[int(np.argmin(finite))].task - start].picture
            name = self.collection.pictures.name(picture)
            raise ExtractionError(f"{net.path} gives features that are not finite for image {name}")
        return means


def _shown(value: object) -> str:
    """A setting, as the error for another one has it; hashes by their beginnings."""
    if isinstance(value, str) and len(value) == 64:
        return value[:12] + "…"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value)
