"""MNIST's IDX files: a big-endian header (magic, one size per dimension), then unsigned bytes.

Format: LeCun, Cortes & Burges, "The MNIST database of handwritten digits". The magic's third byte
is the type (8: unsigned byte), its fourth the number of dimensions.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch

from vggfast.data.arrays import Arrays, from_arrays
from vggfast.data.base import DataSet
from vggfast.errors import InputError

CLASSES = {
    "mnist": tuple(str(d) for d in range(10)),
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
        "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip


def load_idx(kind: str, folder: Path, *, size: int, flip: bool, limit: int | None) -> DataSet:
    """``kind`` ("mnist" or "fashion-mnist") from the four IDX files in ``folder``, plain or .gz.

    The files may also lie in ``folder``/``kind``. Images are resized to size x size.

    Raises:
        InputError: a file is missing, truncated or not what it should be.
    """
    train, val = (read_part(kind, folder, part) for part in ("train", "val"))
    classes = CLASSES[kind]
    return from_arrays(train, val, classes, size=size, shift=size // 16, flip=flip, limit=limit)


def read_idx(path: Path) -> np.ndarray:
    """The array of unsigned bytes in an IDX file, gunzipped if its name ends in .gz."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"data: cannot read {path} ({error}); allowed is a whole file") from None
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08" or not raw[3]:
        raise InputError(
            f"data: {path} starts with {raw[:4].hex()!r}; allowed is IDX of unsigned bytes"
        )
    rank = raw[3]
    start = 4 + 4 * rank
    if len(raw) < start:
        raise InputError(f"data: {path} is cut off in its header; allowed is a whole IDX file")
    shape = struct.unpack(f">{rank}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        raise InputError(
            f"data: {path} holds {len(raw) - start} bytes of data, its header says "
            f"{math.prod(shape)}; allowed is a whole IDX file"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def read_part(kind: str, folder: Path, part: str) -> Arrays:
    """The part "train" or "val" of a set; errors as :func:`load_idx`'s."""
    stem = {"train": "train", "val": "t10k"}[part]
    images_path = _find(kind, folder, f"{stem}-images", 3)
    labels_path = _find(kind, folder, f"{stem}-labels", 1)
    classes = len(CLASSES[kind])
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not images.size:
        raise InputError(
            f"data: {images_path} has shape {images.shape}, {labels_path.name} {labels.shape}; "
            "allowed are (N, H, W) and (N,), N >= 1"
        )
    if labels.max() >= classes:
        raise InputError(
            f"data: {labels_path} holds label {labels.max()}, allowed are 0 to {classes - 1}"
        )
    x = torch.from_numpy(images.astype(np.float32))
    return Arrays(x, torch.from_numpy(labels.astype(np.int64)))


def _find(kind: str, folder: Path, stem: str, rank: int) -> Path:
    if not folder.is_dir():
        raise InputError(f"data: no folder {folder}; allowed is one with {kind}'s IDX files")
    for place in (folder, folder / kind):
        for name in (f"{stem}-idx{rank}-ubyte", f"{stem}.idx{rank}-ubyte"):
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
    raise InputError(
        f"data: no {stem}-idx{rank}-ubyte in {folder}; allowed are {kind}'s IDX files, plain or .gz"
    )
