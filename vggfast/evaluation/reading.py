"""Images of a data set at a test scale, decoded in worker processes, in batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vggfast.data.base import BadImageError
from vggfast.data.colour import Colours, normalise
from vggfast.data.images import Images
from vggfast.data.transforms import rescaled
from vggfast.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

PENDING_BYTES = 256 << 20  # of decoded images that wait for others of their size


class Pixels(Protocol):
    """Anything with an image, (H, W, 3) uint8 RGB."""

    @property
    def pixels(self) -> np.ndarray: ...


P = TypeVar("P", bound=Pixels)


class Sample(NamedTuple):
    """Image ``number`` of the set: (H, W, 3) uint8 RGB, and its label."""

    number: int
    pixels: np.ndarray
    label: int


def stream(
    images: Images, indices: Sequence[int], scale: int, *, workers: int = 0, skip: bool = False
) -> Iterator[Sample | BadImageError]:
    """The images ``indices``, in order, their shorter sides rescaled to ``scale`` pixels.

    Args:
        images: the data set's.
        indices: which.
        scale: Q; the other side keeps the proportions.
        workers: processes that decode; 0: this one.
        skip: give an image that cannot be read as its error.

    Raises:
        InputError: an image cannot be read, without ``skip``.
    """
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", _Rescaled(images, scale)),
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        collate_fn=_as_it_is,  # arrays, not tensors: those would hold a file descriptor each
        generator=torch.Generator(),  # keeps the loader's hands off the global one
    )
    for sample in loader:
        if isinstance(sample, InputError) and not (skip and isinstance(sample, BadImageError)):
            raise sample
        yield sample


def by_size(
    samples: Iterable[P],
    most: Callable[[int, int], int],
    pending_bytes: int = PENDING_BYTES,
) -> Iterator[list[P]]:
    """Group samples of equal size: up to ``most``(height, width) at a time.

    Photographs come in few sizes but in any order. A size that is not full waits until the end,
    or until more than ``pending_bytes`` wait: then the size that holds most goes on as it is.
    """
    waiting: dict[tuple[int, int], list[P]] = {}
    held = 0
    for sample in samples:
        height, width = sample.pixels.shape[:2]
        group = waiting.setdefault((height, width), [])
        group.append(sample)
        held += sample.pixels.nbytes
        size = (height, width)
        if len(group) < most(height, width):
            if held <= pending_bytes:
                continue
            size = max(waiting, key=lambda s: len(waiting[s]) * s[0] * s[1])
        done = waiting.pop(size)
        held -= len(done) * size[0] * size[1] * 3
        yield done
    yield from waiting.values()


def to_input(
    samples: Sequence[Pixels],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """(pixel - mean) / std of samples of one size: (N, 3, H, W) in channels_last memory."""
    pixels = torch.from_numpy(np.stack([s.pixels for s in samples])).to(device)
    return normalise(pixels, None, None, Colours(tuple(mean), tuple(std))).to(dtype)


class _Rescaled:
    """What runs in the workers: a failure is handed over as a value, without a traceback."""

    def __init__(self, images: Images, scale: int) -> None:
        self.images, self.scale = images, scale

    def __getitem__(self, index: int) -> Sample | InputError:
        try:
            image, label = self.images[index]
        except InputError as error:
            return error
        return Sample(index, rescale(image, self.scale), label)


def rescale(image: Image, shorter: int) -> np.ndarray:
    """(H, W, 3) uint8: an RGB image, bilinearly, its shorter side ``shorter`` pixels."""
    from PIL.Image import Resampling

    size = rescaled(image.size, shorter)
    return np.array(image if size == image.size else image.resize(size, Resampling.BILINEAR))


def _as_it_is(sample: Any) -> Any:
    return sample
