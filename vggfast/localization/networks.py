"""The networks of a localisation: regressors for the boxes, classifiers for classes and scores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vggfast import backends
from vggfast.backends import exact
from vggfast.engine import checks
from vggfast.engine.settings import DTYPES
from vggfast.engine.world import World
from vggfast.errors import InputError
from vggfast.evaluation import scales
from vggfast.evaluation.posteriors import images_a_pass
from vggfast.evaluation.scores import class_difference
from vggfast.evaluation.work import Work
from vggfast.localization.merging import THRESHOLD
from vggfast.localization.protocols import Found, likeliest_boxes
from vggfast.localization.reading import Scaled, stacked
from vggfast.weights import Weights, load_weights


class LocalizationError(RuntimeError):
    """A network gives boxes or scores that are not finite."""


@dataclass(frozen=True, kw_only=True)
class Options(Work):
    """Which networks, and how they are used; :mod:`vggfast.localize` documents them."""

    weights: tuple[str, ...]
    classifiers: tuple[str, ...] = ()
    scales: str = "one"
    top: int = 5
    merge_threshold: float = THRESHOLD
    flips: bool = True
    batch: int | None = None
    dtype: str = "fp32"
    device: str = "auto"
    backend: str | None = None
    exact: bool = False
    threads: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("weights: got none, allowed are one file or more")
        for name in ("batch", "threads"):
            checks.integer(name, getattr(self, name), 1, optional=True)
        checks.integer("top", self.top, 1)
        checks.integer("workers", self.workers, 0)
        checks.boolean("flips", self.flips)
        checks.real("merge_threshold", self.merge_threshold, 0, float("inf"), "a number from 0 up")
        checks.one_of("dtype", self.dtype, DTYPES)
        if self.scales not in scales.NAMES:
            scales.listed(self.scales)
        if self.backend not in (None, "auto"):
            backends.get(str(self.backend))
        checks.device(self.device)


class Networks:
    """Opened and checked networks, on their device.

    Raises:
        InputError: a file cannot be used, or networks differ in classes or crop.
    """

    def __init__(self, options: Options, world: World) -> None:
        self.options = options
        self.device = world.place(options.torch_device)
        self.dtype = DTYPES[options.dtype]
        self.regressors = self._load(options.weights, boxes=True)
        self.classifiers = self._load(options.classifiers, boxes=False)
        first = self.regressors[0]
        self.classes, self.crop = first.classes, first.crop
        self.scales = scales.test_scales(options.scales, first.scale, first.crop)
        names = (*options.weights, *options.classifiers)
        for name, other in zip(names, self.regressors + self.classifiers, strict=True):
            wrong = class_difference(other.classes, first.classes)
            if wrong is None and other.crop != first.crop:
                wrong = f"crop {other.crop}, not {first.crop}"
            if wrong is not None:
                raise InputError(
                    f"weights: {name} and {names[0]} differ: {wrong}; allowed are networks of the "
                    "same classes and crop, whose places in an image are the same"
                )

    def images_a_pass(self) -> int:
        """How many images of the largest scale go through the networks at a time."""
        side, crops = max(self.scales), self.options.pass_size(self.device, self.crop)
        return images_a_pass(side, side, self.crop, self.options.flips, crops)

    def locate(self, group: Sequence[Scaled]) -> Found:
        """The likeliest classes of images of one size, with boxes.

        Raises:
            LocalizationError: a network's results are not finite.
        """
        options = self.options
        found = likeliest_boxes(
            self.regressors, self.classifiers, stacked(group, self.device), group[0].size,
            top=min(options.top, len(self.classes)), threshold=options.merge_threshold,
            flips=options.flips, dtype=self.dtype,
        )  # fmt: skip
        check_finite(found.boxes, group)
        return found

    def exact(self) -> AbstractContextManager[object]:
        """The context that the networks run in."""
        return exact(self.options.exact)

    def _load(self, paths: Sequence[str], boxes: bool) -> list[Weights]:
        found = []
        for path in paths:
            weights = load_weights(Path(path), backend=self.options.backend, boxes=boxes)
            weights.model.to(self.device, self.dtype)
            found.append(weights)
        return found


def check_finite(values: Tensor, group: Sequence[Scaled]) -> None:
    """Raise LocalizationError if values (N, ...) of these images are not all finite."""
    bad = (~values.isfinite()).flatten(1).any(1).nonzero()
    if len(bad):
        place = group[int(bad[0])].place
        raise LocalizationError(f"the networks give boxes or scores that are not finite: {place}")
