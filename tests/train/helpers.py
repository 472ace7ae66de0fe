"""What several of the training tests use."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    """``array`` of unsigned bytes in IDX form, written from the format's description."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, train: int = 20) -> Path:
    """``train`` training and 20 test images of noise, labels 0 to 9; the former are gzipped."""
    rng = np.random.default_rng(7)
    folder.mkdir()
    for part, n in (("train", train), ("t10k", 20)):
        raw = idx_bytes(rng.integers(0, 256, (n, 28, 28)))
        if part == "train":
            (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / "t10k-images-idx3-ubyte").write_bytes(raw)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(n) % 10))
    return folder
