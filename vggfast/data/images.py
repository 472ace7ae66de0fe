"""Whole images of a data set, as they are: for evaluation at any scale, and for looking at."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from vggfast.data import digits, idx
from vggfast.data.base import require, spread
from vggfast.data.decode import Photograph
from vggfast.data.load import find_photographs, parse_spec
from vggfast.data.source import Source, Subset
from vggfast.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image


class Images(ABC):
    """RGB images with class numbers, decoded when they are asked for.

    Attributes:
        classes: the names of the classes, in the order of their numbers.
        labels: the class number of each image.
    """

    def __init__(self, classes: tuple[str, ...], labels: Sequence[int]) -> None:
        self.classes, self.labels = classes, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Image, int]:
        """(image, class number). Raises BadImageError, naming it, if it cannot be decoded."""
        label = self.labels[i]  # raises IndexError past the end
        return self._image(i % len(self)), label

    @abstractmethod
    def name(self, i: int) -> str:
        """The file's name relative to the set's root; the number of an image that has no file."""

    @abstractmethod
    def _image(self, i: int) -> Image: ...


class _Grey(Images):
    def __init__(
        self, pixels: Tensor, labels: Sequence[int], rows: Sequence[int], classes: tuple[str, ...]
    ) -> None:
        super().__init__(classes, labels)
        self._pixels, self._rows = pixels, rows

    def name(self, i: int) -> str:
        return str(self._rows[i])

    def _image(self, i: int) -> Image:
        pil = require("PIL.Image", "Pillow")
        image: Image = pil.fromarray(self._pixels[i].round().byte().numpy()).convert("RGB")
        return image


class _Encoded(Images):
    def __init__(self, source: Source, classes: tuple[str, ...]) -> None:
        super().__init__(classes, source.labels)
        self._source = source

    def name(self, i: int) -> str:
        return self._source.name(i)

    def _image(self, i: int) -> Image:
        return Photograph(self._source.read(i), self._source.place(i)).rgb()


def open_images(data: str, part: str = "val", limit: int | None = None) -> Images:
    """The images of a part of a data set, without any transform.

    Args:
        data: as for :func:`vggfast.data.load`. Of ``digits`` and the two MNISTs: their 8x8 and
            28x28 grey images as RGB.
        part: "train" or "val".
        limit: this many images, spread evenly over the part.

    Raises:
        InputError: something is missing or cannot be read.
    """
    if part not in ("train", "val"):
        raise InputError(f"part: got {part!r}, allowed are train, val")
    if limit is not None and limit < 1:
        raise InputError(f"limit: got {limit}, allowed are whole numbers from 1 up")
    kind, place = parse_spec(data)
    if kind == "digits" or kind in idx.CLASSES:
        if kind == "digits":
            arrays, classes = digits.read_digits()[part], digits.CLASSES
        else:
            arrays, classes = idx.read_part(kind, Path(place), part), idx.CLASSES[kind]
        rows = spread(len(arrays.labels), limit)
        return _Grey(arrays.images[rows], arrays.labels[rows].tolist(), rows, classes)
    found = find_photographs(kind, place, (part,))
    source = found.train if part == "train" else found.val
    assert source is not None
    if limit is not None:
        source = Subset(source, spread(len(source.labels), limit))
    return _Encoded(source, found.classes)
