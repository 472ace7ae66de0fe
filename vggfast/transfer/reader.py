"""Reading a folder of features back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vggfast.errors import InputError
from vggfast.transfer.descriptors import join
from vggfast.transfer.store import Rows, read_manifest, read_shard, shards_of


@dataclass(frozen=True)
class Features:
    """Feature vectors with what they are of.

    Attributes:
        values: (N, F), float32.
        names: of the images, relative to the set's root.
        labels: (N,) int64 class numbers, -1 where unknown; or (N, classes) int8 marks: 1 of the
            class, -1 not, 0 difficult or unknown.
        parts: of the set that the images are in: "train", "val", "test" or "all".
        classes: names.
        boxes: (N, 4), float64, in pixels; None for whole images.
        manifest: what the folder's manifest says.

    Raises:
        InputError: they are not as many as the labels, names and parts.
    """

    values: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    parts: tuple[str, ...]
    classes: tuple[str, ...]
    boxes: np.ndarray | None
    manifest: dict[str, Any]

    def __post_init__(self) -> None:
        for what in ("names", "labels", "parts"):
            if len(getattr(self, what)) != len(self.values):
                raise InputError(
                    f"{what}: got {len(getattr(self, what))} for {len(self.values)} feature "
                    "vectors, allowed is one for each"
                )

    def __len__(self) -> int:
        return len(self.values)


def load(folder: str | os.PathLike[str]) -> Features:
    """Read all features of a folder, in the order of the records.

    Raises:
        InputError: the folder has no manifest or its extraction is not over, or a shard is missing,
            damaged, or has another checksum than the manifest says; the message names it.
    """
    manifest, shards = _opened(folder)
    found = list(shards)
    boxes = [rows.boxes for rows in found if rows.boxes is not None]
    return Features(
        np.concatenate([rows.features for rows in found]),
        tuple(name for rows in found for name in rows.names),
        np.concatenate([rows.labels for rows in found]),
        tuple(part for rows in found for part in rows.parts),
        tuple(manifest["classes"]),
        np.concatenate(boxes) if boxes else None,
        manifest,
    )


def iterate(folder: str | os.PathLike[str]) -> Iterator[Rows]:
    """The shards of a folder one by one, for features that do not fit into memory.

    Raises:
        InputError: as :func:`load`.
    """
    return _opened(folder)[1]


def stack(found: Sequence[Features]) -> Features:
    """Features of the same records side by side; if normalised, to length 1 again.

    Raises:
        InputError: they are not of the same records and classes; or there are none.
    """
    if not found:
        raise InputError("features: got none, allowed are one folder or more")
    first = found[0]
    for other in found[1:]:
        same = all(
            getattr(other, what) == getattr(first, what) for what in ("names", "classes", "parts")
        )
        boxes = [f.boxes for f in (first, other) if f.boxes is not None]
        if (
            not same
            or not np.array_equal(other.labels, first.labels)
            or (len(boxes) == 2 and not np.array_equal(boxes[0], boxes[1]))
        ):
            raise InputError(
                f"features: got folders of {len(first)} and {len(other)} records that are not the "
                "same; allowed are folders of the same images, boxes, classes and parts"
            )
    if len(found) == 1:
        return first
    values = join(
        [f.values for f in found], all(f.manifest["settings"]["normalise"] for f in found)
    )
    manifest = {**first.manifest, "parts": [p for f in found for p in f.manifest["parts"]]}
    return Features(
        values, first.names, first.labels, first.parts, first.classes, first.boxes, manifest
    )


def _opened(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], Iterator[Rows]]:
    place = Path(folder)
    manifest = read_manifest(place)
    if not manifest["complete"]:
        raise InputError(
            f"features: the extraction to {place} is not over; start the same command again, it "
            "goes on where it stopped"
        )
    return manifest, (read_shard(place / s.file, s) for s in shards_of(manifest))
