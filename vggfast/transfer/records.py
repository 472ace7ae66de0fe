"""What each feature vector is of: name, class, part of the set, box."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Records:
    """R records as columns.

    Attributes:
        image: (R,), which image of the collection.
        names: the image's name.
        labels: (R,) int64 class numbers, -1 where unknown; or (R, classes) int8 marks: 1 of the
            class, -1 not, 0 difficult or unknown.
        parts: "train", "val", "test", or "all" where the set has no parts.
        boxes: (R, 4) float64: left, top, right, bottom in pixels from the image's upper left
            corner, right and bottom not included; None: records are of whole images.
    """

    image: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    parts: tuple[str, ...]
    boxes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int]) -> Records:
        """The records at ``rows``, in that order."""
        return Records(
            self.image[rows],
            tuple(self.names[i] for i in rows),
            self.labels[rows],
            tuple(self.parts[i] for i in rows),
            None if self.boxes is None else self.boxes[rows],
        )

    def digest(self) -> str:
        """SHA-256 of names, labels, parts and boxes, in order."""
        total = hashlib.sha256()
        for name, part in zip(self.names, self.parts, strict=True):
            total.update(f"{name}\0{part}\0".encode("utf-8", "surrogateescape"))
        total.update(np.ascontiguousarray(self.labels).tobytes())
        if self.boxes is not None:
            total.update(np.ascontiguousarray(self.boxes).tobytes())
        return total.hexdigest()
