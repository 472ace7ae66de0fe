"""Where the images of a collection come from, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from vggfast.data.decode import Photograph
from vggfast.data.images import Images
from vggfast.data.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[
    float, float, float, float
]  # left, top, right, bottom in pixels; the latter two outside


class Pictures(Protocol):
    """Images by number. Plain data, so that worker processes can have it."""

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """What image ``i`` is called: a path relative to the set's root."""
        ...

    def decode(self, i: int) -> Image:
        """Image ``i``, RGB. Raises BadImageError, naming it, if it cannot be read."""
        ...


class FromSource:
    """The images of a source of encoded ones."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.labels)

    def name(self, i: int) -> str:
        return self._source.name(i)

    def decode(self, i: int) -> Image:
        return Photograph(self._source.read(i), self._source.place(i)).rgb()


class FromSets:
    """The images of several sets, one after the other."""

    def __init__(self, sets: Sequence[Images]) -> None:
        self._sets = sets

    def __len__(self) -> int:
        return sum(map(len, self._sets))

    def name(self, i: int) -> str:
        images, number = self._place(i)
        return images.name(number)

    def decode(self, i: int) -> Image:
        images, number = self._place(i)
        return images[number][0]

    def _place(self, i: int) -> tuple[Images, int]:
        for images in self._sets:
            if i < len(images):
                return images, i
            i -= len(images)
        raise IndexError(i)
