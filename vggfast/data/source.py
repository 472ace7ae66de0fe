"""Where encoded photographs come from: files, and parts of a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vggfast.data.base import BadImageError


class Source(Protocol):
    """Encoded images with class numbers. Plain data, so that worker processes can have it."""

    @property
    def labels(self) -> Sequence[int]:
        """The class number of each image."""
        ...

    def name(self, i: int) -> str:
        """What image ``i`` is called: a path relative to the set's root."""
        ...

    def place(self, i: int) -> str:
        """Where image ``i`` lies, for an error."""
        ...

    def read(self, i: int) -> bytes:
        """Image ``i`` as it is encoded. Raises BadImageError if it cannot be read."""
        ...


@dataclass(frozen=True)
class Files:
    """Image files below ``root``: ``files`` are relative paths with slashes."""

    root: Path
    files: Sequence[str]
    labels: Sequence[int]

    def name(self, i: int) -> str:
        return self.files[i]

    def place(self, i: int) -> str:
        return str(self.root / self.files[i])

    def read(self, i: int) -> bytes:
        try:
            return (self.root / self.files[i]).read_bytes()
        except OSError as error:
            reason = f"{self.place(i)} ({error.strerror})"
            raise BadImageError(f"data: cannot read image {reason}") from None


class Subset:
    """The images of ``source`` at ``indices``, in that order."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, indices
        self.labels = tuple(source.labels[i] for i in indices)

    def name(self, i: int) -> str:
        return self._source.name(self._indices[i])

    def place(self, i: int) -> str:
        return self._source.place(self._indices[i])

    def read(self, i: int) -> bytes:
        return self._source.read(self._indices[i])


@dataclass(frozen=True)
class Photographs:
    """The parts of a set of photographs; a part that was not asked for is None."""

    train: Source | None
    val: Source | None
    classes: tuple[str, ...]
