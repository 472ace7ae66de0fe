"""From settings to results: networks, images, scores of every protocol and scale, the table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vggfast.backends import clear_weights, exact
from vggfast.data import parse_spec
from vggfast.data.base import BadImageError
from vggfast.data.images import open_images
from vggfast.engine.world import World, join
from vggfast.errors import InputError
from vggfast.evaluation import scores as files
from vggfast.evaluation.fusion import Row, rows
from vggfast.evaluation.posteriors import POSTERIORS, images_a_pass
from vggfast.evaluation.progress import Progress
from vggfast.evaluation.reading import Sample, by_size, stream, to_input
from vggfast.evaluation.scales import test_scales
from vggfast.evaluation.scores import Scores, Source
from vggfast.evaluation.settings import DTYPES, Settings
from vggfast.evaluation.sharing import decide, gather_rows
from vggfast.weights import Weights, load_weights


class EvaluationError(RuntimeError):
    """A network gives no usable scores."""


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        rows: the table; the last row fuses all that was asked for.
        scores: posteriors by network, protocol and scale.
        images: how many were scored.
        skipped: how many could not be read.
    """

    rows: list[Row]
    scores: list[Scores]
    images: int
    skipped: int


def run(settings: Settings, progress: Progress | None = None) -> Result | None:
    """Evaluate; see :func:`vggfast.evaluate.evaluate`. None in all but the first process."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(settings.threads or threads)
        # Not inference_mode: what is made of its weights cannot be kept from pass to pass.
        with join() as world, exact(settings.exact), torch.no_grad():
            shown = progress if progress is not None and world.first else Progress()
            with world.together():
                evaluation = _Evaluation(settings, world, shown)
            found = evaluation.scores()
            return _result(found) if world.first else None
    finally:
        if progress is not None:
            progress.close()
        torch.set_num_threads(threads)


def fuse(paths: Sequence[str | os.PathLike[str]]) -> Result:
    """The table of score files that were written before.

    Raises:
        InputError: a file cannot be used, or they are not of the same images and classes.
    """
    return _result([files.read(Path(path)) for path in paths])


def _result(found: list[Scores]) -> Result:
    table = rows(found)
    return Result(table, found, len(found[0].labels), found[0].skipped)


@dataclass(frozen=True)
class _Net:
    path: Path
    hash: str
    weights: Weights


class _Evaluation:
    """One run: everything is opened and checked here, before hours of work."""

    def __init__(self, settings: Settings, world: World, progress: Progress) -> None:
        self.settings, self.world, self.progress = settings, world, progress
        self.images = open_images(settings.data, settings.part, limit=settings.limit)
        self.names = [self.images.name(i) for i in range(len(self.images))]
        self.device = world.place(settings.torch_device)
        self.nets = self._nets()
        self.folder = None if settings.scores is None else Path(settings.scores)
        if self.folder is not None and world.first:
            files.prepare(self.folder)

    def scores(self) -> list[Scores]:
        """Of every network at each of its scales; empty but in the first process."""
        found: list[Scores] = []
        for net in self.nets:
            model = net.weights.model.to(self.device, DTYPES[self.settings.dtype])
            for scale in self._scales(net):
                found += self._at_scale(net, scale)
            model.to("cpu")
            clear_weights()  # no network of an ensemble waits with packed weights
        return found

    def _nets(self) -> list[_Net]:
        nets: dict[str, _Net] = {}
        for name in self.settings.weights:
            path = Path(name)
            weights = load_weights(path, backend=self.settings.backend)
            net = _Net(path, files.file_hash(path), weights)
            wrong = files.class_difference(self.images.classes, weights.classes)
            if wrong is not None:
                raise InputError(
                    f"data: {self.settings.data} has other classes than {path}: {wrong}; allowed "
                    "are the network's, in its order"
                )
            self._scales(net)  # may be refused
            if net.hash in nets:
                same = nets[net.hash].path
                self.progress.note(f"{path} is the same network as {same} and counts once")
            nets.setdefault(net.hash, net)
        return list(nets.values())

    def _scales(self, net: _Net) -> tuple[int, ...]:
        return test_scales(self.settings.scales, net.weights.scale, net.weights.crop)

    def _at_scale(self, net: _Net, scale: int) -> list[Scores]:
        """Scores by every protocol, read or made."""
        sources = {p: self._source(net, p, scale) for p in self.settings.protocols}
        kept: dict[str, Scores] = {}

        def missing() -> list[str]:
            for protocol, source in sources.items():
                scores = self._kept(source)
                if scores is not None:
                    kept[protocol] = scores
            return [p for p in sources if p not in kept]

        wanted = decide(self.world, missing)
        with self.world.together():
            made = self._compute(net, scale, wanted) if wanted else None
            if made is not None:
                number, labels, *posteriors = made
                read = tuple(self.names[i] for i in number.tolist())
                skipped = len(self.names) - len(read)
                for protocol, p in zip(wanted, posteriors, strict=True):
                    kept[protocol] = Scores(sources[protocol], read, labels, p, skipped)
                    if self.folder is not None:
                        files.write(self.folder / sources[protocol].file_name, kept[protocol])
        return [kept[p] for p in sources] if self.world.first else []

    def _compute(self, net: _Net, scale: int, protocols: list[str]) -> list[Tensor] | None:
        """Number and label of each readable image, in order, and posteriors by each protocol."""
        settings, weights, world = self.settings, net.weights, self.world
        batch = settings.pass_size(self.device, weights.crop)
        numbers: list[int] = []
        labels: list[int] = []
        parts: list[list[Tensor]] = [[] for _ in protocols]

        def most(height: int, width: int) -> int:
            return images_a_pass(height, width, weights.crop, settings.mirrors, batch)

        title = f"{weights.net} {', '.join(protocols)}, Q = {scale}"
        self.progress.start(title, len(self.images))
        with world.together():  # before anything is gathered
            for group in by_size(self._readable(scale), most):
                x = to_input(group, weights.mean, weights.std, self.device, DTYPES[settings.dtype])
                for part, protocol in zip(parts, protocols, strict=True):
                    function = POSTERIORS[protocol]
                    p = function(weights.model, x, flips=settings.mirrors, batch=batch).cpu()
                    self._check_finite(p, net, group)
                    part.append(p)
                numbers += [s.number for s in group]
                labels += [s.label for s in group]
                self.progress.step(len(group) * world.size)
        empty = torch.zeros((0, len(self.images.classes)))
        columns = [torch.tensor(values, dtype=torch.int64) for values in (numbers, labels)]
        columns += [torch.cat(part) if part else empty for part in parts]
        gathered = gather_rows(world, columns)
        self.progress.end()
        if gathered is None:
            return None
        if not len(gathered[0]):
            raise InputError(f"data: none of the {len(self.images)} images can be read")
        order = gathered[0].argsort()
        return [column[order] for column in gathered]

    def _readable(self, scale: int) -> Iterator[Sample]:
        """This process's share of the images."""
        settings = self.settings
        mine = range(self.world.rank, len(self.images), self.world.size)
        skip = settings.on_bad_image == "skip"
        for sample in stream(self.images, mine, scale, workers=settings.workers, skip=skip):
            if isinstance(sample, BadImageError):
                self.progress.note(f"skipped: {sample}")
            else:
                yield sample

    def _check_finite(self, posteriors: Tensor, net: _Net, group: list[Sample]) -> None:
        bad = (~posteriors.isfinite()).any(1).nonzero()
        if len(bad):
            name = self.names[group[int(bad[0])].number]
            raise EvaluationError(f"{net.path} gives scores that are not finite for image {name}")

    def _source(self, net: _Net, protocol: str, scale: int) -> Source:
        kind, place = parse_spec(self.settings.data)
        return Source(
            weights=net.hash,
            net=net.weights.net,
            crop=net.weights.crop,
            trained=net.weights.scale,
            classes=tuple(self.images.classes),
            data=f"{kind}:{os.path.abspath(place)}" if place else kind,
            part=self.settings.part,
            names=files.digest(self.names, self.images.labels),
            protocol=protocol,
            scale=scale,
            flips=self.settings.mirrors,
            dtype=self.settings.dtype,
            file=str(net.path),
        )

    def _kept(self, source: Source) -> Scores | None:
        """The scores of an earlier run, if there are any."""
        if self.folder is None or not (self.folder / source.file_name).exists():
            return None
        path = self.folder / source.file_name
        found = files.read(path)
        wrong = files.difference(found.source, source)
        if wrong is not None:
            raise InputError(
                f"scores: {path} holds other scores ({wrong}); allowed are the same, or another "
                "folder"
            )
        if found.skipped and self.settings.on_bad_image == "fail":
            raise InputError(
                f"on_bad_image: got fail, but {path} was written without {found.skipped} images "
                "that could not be read; allowed are skip, or another folder"
            )
        self.progress.note(f"{path} is used as it is")
        return found
