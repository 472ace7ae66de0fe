"""What a data set is to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Protocol

import torch
from torch import Tensor

from vggfast.errors import InputError

Key = tuple[int, int]  # (index of the sample, draw that fixes its augmentation)


class BadImageError(InputError):
    """An image that cannot be decoded; the message is one line and names it."""


@dataclass
class RawBatch:
    """What a worker process hands over: bytes where it can, which are a quarter of the floats.

    Attributes:
        images: as ``Samples.finish`` of the same set takes them.
        labels: (N,), int64, the class numbers; of other tasks than classification their targets,
            (N, ...).
        flips: (N,), bool, which images ``finish`` mirrors, or None.
        shifts: (N, 3), float32, what ``finish`` adds to red, green and blue, or None.
        bad: (name, reason) of every image that could not be read.
        skipped: how many of the asked for samples were left out or replaced because of that.
    """

    images: Tensor
    labels: Tensor
    flips: Tensor | None = None
    shifts: Tensor | None = None
    bad: list[tuple[str, str]] = field(default_factory=list)
    skipped: int = 0

    def pin_memory(self) -> RawBatch:
        """The same in pinned memory: ``DataLoader`` calls this by its name."""
        self.images = self.images.pin_memory()
        self.labels = self.labels.pin_memory()
        return self


class Samples(Protocol):
    """A map-style part (training or validation) of a data set."""

    def __len__(self) -> int: ...

    def read(self, keys: Sequence[Key]) -> RawBatch:
        """The samples of one batch, which may be empty; runs in a worker process.

        Raises:
            InputError: naming the file, if one cannot be read and none is to be skipped.
        """
        ...

    def finish(self, raw: RawBatch, device: torch.device) -> Tensor:
        """The network's input on ``device``: (N, 3, size, size), float32, normalised."""
        ...


@dataclass(frozen=True)
class DataSet:
    """A training part and a validation part with the same classes.

    ``mean`` and ``std`` are the training set's, per RGB channel on a 0-255 scale: the mean is
    subtracted from images (section 2.1), and they are divided by the standard deviation, which
    the paper does not do; wherever the network is used, its images need the same.
    """

    train: Samples
    val: Samples
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def require(module: str, package: str) -> ModuleType:
    """Import ``module``, which only some data sets or outputs need.

    Raises:
        InputError: it is not installed; the message says how to install it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{package} is not installed ({error}): pip install 'vggfast[train]'"
        ) from None


def spread(available: int, wanted: int | None) -> list[int]:
    """``wanted`` indices spread evenly over 0 .. available - 1, all of them for None.

    Even spreading keeps every class of a sorted set.
    """
    if wanted is None or wanted >= available:
        return list(range(available))
    return [i * available // wanted for i in range(wanted)]
