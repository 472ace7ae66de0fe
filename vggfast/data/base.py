"""What a data set is to the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Protocol

from torch import Tensor

from vggfast.errors import InputError

Key = tuple[int, int]  # (index of the sample, draw that fixes its augmentation)
Sample = tuple[Tensor, int]  # image (3, size, size), float32, normalised; class number


class Samples(Protocol):
    """A map-style part (training or validation) of a data set, read by ``DataLoader``."""

    def __len__(self) -> int: ...

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples of one batch. Raises InputError, naming the file, if one cannot be read."""
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
