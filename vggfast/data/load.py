"""From the ``--data`` argument to a data set."""

from __future__ import annotations

from pathlib import Path

from vggfast.data.base import DataSet
from vggfast.data.digits import load_digits
from vggfast.data.folder import load_folder
from vggfast.data.idx import CLASSES, load_idx
from vggfast.errors import InputError


def parse_spec(data: str) -> tuple[str, str]:
    """(kind, folder) of a ``--data`` argument; kind: digits, mnist, fashion-mnist or folder."""
    kind, colon, place = data.partition(":")
    if data == "digits":
        return "digits", ""
    if kind in CLASSES:
        if not place:
            raise InputError(f"data: got {data!r}, allowed is {kind}:DIR with the IDX files in DIR")
        return kind, place
    if not data or (colon and kind == "digits"):
        raise InputError(
            f"data: got {data!r}, allowed are digits, mnist:DIR, fashion-mnist:DIR or a folder"
        )
    return "folder", data


def load(
    data: str,
    *,
    size: int,
    scale: tuple[int, int],
    flip: bool | None = None,
    limit: int | None = None,
) -> DataSet:
    """Load what ``data`` names: "digits", "mnist:DIR", "fashion-mnist:DIR" or an image folder.

    Args:
        data: the set.
        size: side of the square images the network sees.
        scale: (S_min, S_max), to which a photograph's shorter side is rescaled; unused by others.
        flip: mirror training images with probability 1/2; None: yes, but not digits (mirrored,
            they are no digits).
        limit: train on this many images, spread evenly over the training set.

    Raises:
        InputError: something is missing or cannot be read.
    """
    kind, place = parse_spec(data)
    if flip is None:
        flip = kind in ("fashion-mnist", "folder")
    if kind == "digits":
        return load_digits(size=size, flip=flip, limit=limit)
    if kind == "folder":
        return load_folder(Path(place), size=size, scale=scale, flip=flip, limit=limit)
    return load_idx(kind, Path(place), size=size, flip=flip, limit=limit)
