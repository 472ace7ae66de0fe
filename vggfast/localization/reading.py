"""Whole images at several scales, decoded once each in worker processes, in batches of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vggfast.data.base import BadImageError
from vggfast.data.decode import Photograph
from vggfast.errors import InputError
from vggfast.evaluation.reading import PENDING_BYTES, rescale


class Encoded(Protocol):
    """Images as they are encoded: :class:`vggfast.data.source.Source` is one."""

    def place(self, i: int) -> str: ...

    def read(self, i: int) -> bytes: ...


class Scaled(NamedTuple):
    """Image ``number``, of ``size`` = (width, height), at each scale: (H, W, 3), uint8; ``place``
    is what an error calls it."""

    number: int
    place: str
    size: tuple[int, int]
    pixels: list[np.ndarray]


def stream(
    source: Encoded,
    indices: Sequence[int],
    scales: Sequence[int],
    *,
    workers: int = 0,
    skip: bool = False,
) -> Iterator[Scaled | BadImageError]:
    """The images ``indices``, in order, rescaled to each of ``scales``.

    Raises:
        InputError: an image cannot be read; with ``skip`` it is given as its error instead.
    """
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", _Reader(source, tuple(scales))),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # keeps the loader's hands off the global one
    )
    for found in loader:
        if isinstance(found, InputError) and not (skip and isinstance(found, BadImageError)):
            raise found
        yield found


def by_size(
    images: Iterator[Scaled], most: int, pending_bytes: int = PENDING_BYTES
) -> Iterator[list[Scaled]]:
    """Group images of equal size, up to ``most`` at a time.

    A size that is not full waits until the end, or until more than ``pending_bytes`` wait: then
    the size that holds most goes on as it is.
    """
    waiting: dict[tuple[int, int], list[Scaled]] = {}
    held: dict[tuple[int, int], int] = {}
    for image in images:
        size = image.size
        waiting.setdefault(size, []).append(image)
        held[size] = held.get(size, 0) + sum(p.nbytes for p in image.pixels)
        if len(waiting[size]) < most:
            if sum(held.values()) <= pending_bytes:
                continue
            size = max(held, key=lambda s: held[s])
        del held[size]
        yield waiting.pop(size)
    yield from waiting.values()


def stacked(group: Sequence[Scaled], device: torch.device) -> list[Tensor]:
    """Of each scale the images (N, H, W, 3), uint8, on ``device``."""
    scales = zip(*(image.pixels for image in group), strict=True)
    return [torch.from_numpy(np.stack(images)).to(device) for images in scales]


class _Reader:
    """What runs in the workers: a failure is handed over as a value, without a traceback."""

    def __init__(self, source: Encoded, scales: tuple[int, ...]) -> None:
        self._source, self._scales = source, scales

    def __getitem__(self, index: int) -> Scaled | InputError:
        try:
            place = self._source.place(index)
            image = Photograph(self._source.read(index), place).rgb()
        except InputError as error:
            return error
        return Scaled(index, place, image.size, [rescale(image, scale) for scale in self._scales])


def _as_it_is(found: Any) -> Any:
    return found
