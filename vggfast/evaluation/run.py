"""From settings to results: networks, images, scores of every protocol and scale, the table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vggfast.backends import exact
from vggfast.data import parse_spec
from vggfast.data.base import BadImageError
from vggfast.data.images import Images, open_images
from vggfast.engine.weights import Weights, load_weights
from vggfast.errors import InputError
from vggfast.evaluation import scores as files
from vggfast.evaluation.fusion import Row, rows
from vggfast.evaluation.posteriors import POSTERIORS, images_a_pass
from vggfast.evaluation.progress import Progress
from vggfast.evaluation.reading import Sample, by_size, stream, to_input
from vggfast.evaluation.scales import test_scales
from vggfast.evaluation.scores import Scores, Source
from vggfast.evaluation.settings import DTYPES, Settings
from vggfast.evaluation.shards import Shards, shards


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


@dataclass(frozen=True)
class _Net:
    path: Path
    hash: str
    weights: Weights


def run(settings: Settings, progress: Progress | None = None) -> Result | None:
    """Evaluate; see :func:`vggfast.evaluate.evaluate`. None in all but the first process."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(settings.threads or threads)
        with shards() as team, exact(settings.exact), torch.inference_mode():
            shown = progress if progress is not None and team.first else Progress()
            return _run(settings, team, shown)
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


def _run(settings: Settings, team: Shards, progress: Progress) -> Result | None:
    images = open_images(settings.data, settings.part, limit=settings.limit)
    nets = _nets(settings, images, progress)
    folder = None if settings.scores is None else Path(settings.scores)
    if folder is not None:
        team.decide(lambda: files.prepare(folder))
    found: list[Scores] = []
    for net in nets:
        scales = test_scales(settings.scales, net.weights.scale, net.weights.crop)
        net.weights.model.to(settings.torch_device(team.local_rank), DTYPES[settings.dtype])
        for scale in scales:
            found += _scale(settings, team, progress, images, net, scale)
        net.weights.model.to("cpu")
    return _result(found) if team.first else None


def _nets(settings: Settings, images: Images, progress: Progress) -> list[_Net]:
    nets: dict[str, _Net] = {}
    for name in settings.weights:
        path = Path(name)
        net = _Net(path, files.file_hash(path), load_weights(path, backend=settings.backend))
        wrong = files.class_difference(images.classes, net.weights.classes)
        if wrong is not None:
            raise InputError(
                f"data: {settings.data} has other classes than {path}: {wrong}; allowed are the "
                "network's, in its order"
            )
        test_scales(settings.scales, net.weights.scale, net.weights.crop)
        if net.hash in nets:
            progress.note(f"{path} is the same network as {nets[net.hash].path} and counts once")
        nets.setdefault(net.hash, net)
    return list(nets.values())


def _scale(
    settings: Settings,
    team: Shards,
    progress: Progress,
    images: Images,
    net: _Net,
    scale: int,
) -> list[Scores]:
    """Scores by every protocol at one scale (empty but in the first process), read or made."""
    names = [images.name(i) for i in range(len(images))]
    sources = [_source(settings, net, images, names, p, scale) for p in settings.protocols]
    kept: dict[str, Scores] = {}

    def missing() -> list[str]:
        for source in sources:
            scores = _kept(settings, source)
            if scores is not None:
                kept[source.protocol] = scores
                progress.note(f"{source.file_name} is kept from before")
        return [s.protocol for s in sources if s.protocol not in kept]

    wanted = team.decide(missing)
    with team.together():
        made = _compute(settings, team, progress, images, net, scale, wanted) if wanted else None
        if made is not None:
            index, labels, *posteriors = made
            read = tuple(names[i] for i in index.tolist())
            for source in sources:
                if source.protocol in wanted:
                    p = posteriors[wanted.index(source.protocol)]
                    scores = Scores(source, read, labels, p, len(names) - len(read))
                    kept[source.protocol] = scores
                    if settings.scores is not None:
                        files.write(_path(settings, source), scores)
    return [kept[p] for p in settings.protocols] if team.first else []


def _compute(
    settings: Settings,
    team: Shards,
    progress: Progress,
    images: Images,
    net: _Net,
    scale: int,
    protocols: list[str],
) -> list[Tensor] | None:
    """Index and label of each readable image in order, then its posteriors by each protocol."""
    device, dtype = settings.torch_device(team.local_rank), DTYPES[settings.dtype]
    model, crop = net.weights.model, net.weights.crop
    batch = settings.pass_size(device, crop)
    options = {"flips": settings.mirrors, "batch": batch}

    def most(height: int, width: int) -> int:
        return images_a_pass(height, width, crop, settings.mirrors, batch)

    index: list[int] = []
    labels: list[int] = []
    parts: list[list[Tensor]] = [[] for _ in protocols]
    progress.start(f"{net.weights.net} {', '.join(protocols)}, Q = {scale}", len(images))
    with team.together():
        mine = team.mine(range(len(images)))
        read = stream(
            images, mine, scale, workers=settings.workers, skip=settings.on_bad_image == "skip"
        )
        for group in by_size(_readable(read, progress), most):
            x = to_input(group, net.weights.mean, net.weights.std, device, dtype)
            for part, protocol in zip(parts, protocols, strict=True):
                part.append(_finite(POSTERIORS[protocol](model, x, **options), net, images, group))
            index += [s.number for s in group]
            labels += [s.label for s in group]
            progress.step(len(group) * team.world)
    progress.end()
    empty = torch.zeros((0, len(images.classes)))
    scored = [torch.cat(part) if part else empty for part in parts]
    numbers = [torch.tensor(values, dtype=torch.int64) for values in (index, labels)]
    gathered = team.gather([*numbers, *scored])
    if gathered is None:
        return None
    if not len(gathered[0]):
        raise InputError(f"data: none of the {len(images)} images can be read")
    order = gathered[0].argsort()
    return [tensor[order] for tensor in gathered]


def _readable(read: Iterable[Sample | BadImageError], progress: Progress) -> Iterator[Sample]:
    for sample in read:
        if isinstance(sample, BadImageError):
            progress.note(f"skipped: {sample}")
        else:
            yield sample


def _finite(posteriors: Tensor, net: _Net, images: Images, group: list[Sample]) -> Tensor:
    """Posteriors on the CPU, checked."""
    posteriors = posteriors.cpu()
    bad = (~posteriors.isfinite()).any(1).nonzero()
    if len(bad):
        name = images.name(group[int(bad[0])].number)
        raise EvaluationError(f"{net.path} gives scores that are not finite for image {name}")
    return posteriors


def _source(
    settings: Settings, net: _Net, images: Images, names: list[str], protocol: str, scale: int
) -> Source:
    kind, place = parse_spec(settings.data)
    return Source(
        weights=net.hash,
        net=net.weights.net,
        crop=net.weights.crop,
        trained=net.weights.scale,
        classes=tuple(images.classes),
        data=f"{kind}:{os.path.abspath(place)}" if place else kind,
        part=settings.part,
        names=files.digest(names, images.labels),
        protocol=protocol,
        scale=scale,
        flips=settings.mirrors,
        dtype=settings.dtype,
        file=str(net.path),
    )


def _path(settings: Settings, source: Source) -> Path:
    assert settings.scores is not None, "asked for only where scores are kept"
    return Path(settings.scores) / source.file_name


def _kept(settings: Settings, source: Source) -> Scores | None:
    """The scores of an earlier run, if there are any."""
    if settings.scores is None or not _path(settings, source).exists():
        return None
    found = files.read(_path(settings, source))
    wrong = files.difference(found.source, source)
    if wrong is not None:
        raise InputError(
            f"scores: {_path(settings, source)} holds other scores ({wrong}); allowed are the "
            "same, or another folder"
        )
    return found


def _result(found: list[Scores]) -> Result:
    table = rows(found)
    return Result(table, found, len(found[0].labels), found[0].skipped)
