"""Localisation measured on a data set, by either protocol."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor

from vggfast.data.base import BadImageError
from vggfast.data.folder import PARTS
from vggfast.data.photos import ON_BAD_IMAGE
from vggfast.engine import checks
from vggfast.engine.world import World, join
from vggfast.errors import InputError
from vggfast.evaluation.progress import Progress
from vggfast.evaluation.rates import wilson
from vggfast.localization.boxes import iou
from vggfast.localization.networks import Networks, Options, check_finite
from vggfast.localization.protocols import central_boxes
from vggfast.localization.readers import Annotated, find
from vggfast.localization.reading import Scaled, by_size, stacked, stream
from vggfast.localization.table import Row
from vggfast.localization.task import ENOUGH

PROTOCOLS = ("centre", "full")
# Options without a meaning for the other protocol, and their defaults.
ONLY_FULL = {
    f.name: f.default for f in fields(Options) if f.name in ("top", "merge_threshold", "flips")
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured; :func:`vggfast.localize.evaluate` documents it."""

    data: str
    options: Options
    part: str = "val"
    protocol: str = "centre"
    limit: int | None = None
    on_bad_image: str = "fail"

    def __post_init__(self) -> None:
        checks.one_of("part", self.part, PARTS)
        checks.one_of("protocol", self.protocol, PROTOCOLS)
        checks.one_of("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        checks.integer("limit", self.limit, 1, optional=True)
        given = bool(self.options.classifiers)
        if given != (self.protocol == "full"):
            raise InputError(
                f"classifier: got {'one' if given else 'none'} for the protocol {self.protocol}, "
                "allowed are one file or more for full, and none for centre, which takes the true "
                "class"
            )
        if self.protocol == "full":
            return
        for name, default in ONLY_FULL.items():
            if getattr(self.options, name) != default:
                raise InputError(
                    f"{name}: got {getattr(self.options, name)} for the protocol centre, which has "
                    "no use for it; allowed is with full"
                )
        if len(self.options.weights) > 1:
            raise InputError(
                f"weights: got {len(self.options.weights)} files for the protocol centre, allowed "
                "is one; full merges the boxes of several"
            )


@dataclass(frozen=True)
class Result:
    """What was measured.

    Attributes:
        row: the figures.
        images: how many samples were measured (an image with boxes of two classes is two).
        skipped: how many could not be read, or had boxes that do not fit.
    """

    row: Row
    images: int
    skipped: int


def run(settings: Settings, progress: Progress | None = None) -> Result | None:
    """Measure; see :func:`vggfast.localize.evaluate`. None in all but the first process."""
    threads = torch.get_num_threads()
    options = settings.options
    try:
        torch.set_num_threads(options.threads or threads)
        with join() as world, torch.no_grad():
            shown = progress if progress is not None and world.first else Progress()
            with world.together():
                networks = Networks(options, world)
                data = find(
                    settings.data, settings.part, networks.classes,
                    limit=settings.limit, checked=settings.on_bad_image == "fail",
                )  # fmt: skip
                if settings.protocol == "centre" and len(networks.scales) > 1:
                    raise InputError(
                        f"scales: got {options.scales} for the protocol centre, allowed is one"
                    )
            shown.start(f"{settings.protocol}, Q = {networks.scales}", len(data))
            with networks.exact(), world.together():
                sums = _measure(settings, networks, data, world, shown)
            counted = world.sum([sums.images, sums.skipped, sums.overlap, *sums.wrong])
            shown.end()
            return _result(settings, networks, counted) if world.first else None
    finally:
        if progress is not None:
            progress.close()
        torch.set_num_threads(threads)


@dataclass
class _Sums:
    """Over images: how many; errors by the best box, with the likeliest class alone, and of
    classification; for the true class the sum of IoUs."""

    images: int = 0
    skipped: int = 0
    overlap: float = 0.0
    wrong: list[int] = field(default_factory=lambda: [0, 0, 0])


def _measure(
    settings: Settings, networks: Networks, data: Annotated, world: World, progress: Progress
) -> _Sums:
    """This process's share of the images, by the protocol asked for."""
    sums = _Sums()
    measure = _centre if settings.protocol == "centre" else _full
    images = _readable(settings, networks, data, world, sums, progress)
    for group in by_size(images, networks.images_a_pass()):
        labels = torch.tensor([data.source.labels[image.number] for image in group])
        truth = [_truth(data, image) for image in group]
        measure(networks, group, labels, truth, sums)
        sums.images += len(group)
        progress.step(len(group) * world.size)
    return sums


def _centre(
    networks: Networks, group: list[Scaled], labels: Tensor, truth: list[Tensor], sums: _Sums
) -> None:
    """The true class's box in the crop in the middle."""
    (pixels,) = stacked(group, networks.device)
    boxes = central_boxes(
        networks.regressors[0], pixels, group[0].size, labels.to(networks.device), networks.dtype
    )
    check_finite(boxes, group)
    for box, own in zip(boxes, truth, strict=True):
        overlap = float(iou(box, own).max())
        sums.overlap += overlap
        sums.wrong[0] += overlap <= ENOUGH


def _full(
    networks: Networks, group: list[Scaled], labels: Tensor, truth: list[Tensor], sums: _Sums
) -> None:
    """The boxes of the likeliest classes, densely over scales."""
    found = networks.locate(group)
    for label, classes, boxes, own in zip(labels, found.classes, found.boxes, truth, strict=True):
        named = classes == label
        right = named & (iou(boxes[:, None], own).amax(1) > ENOUGH)
        for i, hit in enumerate((right.any(), right[0], named.any())):
            sums.wrong[i] += not bool(hit)


def _readable(
    settings: Settings,
    networks: Networks,
    data: Annotated,
    world: World,
    sums: _Sums,
    progress: Progress,
) -> Iterator[Scaled]:
    """This process's share of the images, those whose boxes lie in them."""
    mine = range(world.rank, len(data), world.size)
    skip = settings.on_bad_image == "skip"
    workers = settings.options.workers
    for image in stream(data.source, mine, networks.scales, workers=workers, skip=skip):
        try:
            if isinstance(image, BadImageError):
                raise image
            _truth(data, image)
        except BadImageError as error:
            if not skip:
                raise
            sums.skipped += 1
            progress.note(f"skipped: {error}")
            continue
        yield image


def _truth(data: Annotated, image: Scaled) -> Tensor:
    """The true boxes (B, 4) of a sample. Raises BadImageError."""
    return data.boxes.within(image.number, image.size, image.place)


def _result(settings: Settings, networks: Networks, counted: list[float]) -> Result:
    images, skipped, overlap, *wrong = counted
    if not images:
        raise InputError("data: none of the images can be read")
    count = int(images)
    error, first, classes = (wilson(int(w), count) for w in wrong)
    regressors = networks.regressors
    spans = dict.fromkeys(r.scale for r in regressors)
    row = Row(
        " + ".join(r.net for r in regressors),
        " + ".join(dict.fromkeys(str(r.model.boxes) for r in regressors)),
        ", ".join(str(low) if low == high else f"[{low};{high}]" for low, high in spans),
        networks.scales,
        settings.protocol,
        error,
    )
    if settings.protocol == "centre":
        row = replace(row, mean_iou=overlap / count)
    else:
        row = replace(row, first=first, classes=classes)
    return Result(row, count, int(skipped))
