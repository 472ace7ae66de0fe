"""scikit-learn's digits: 1797 real hand-written digits of 8x8 pixels (UCI optical recognition)."""

from __future__ import annotations

import torch

from vggfast.data.arrays import Arrays, from_arrays
from vggfast.data.base import DataSet, require

SPLIT_SEED = 0  # of the held-out fifth; independent of the training seed
CLASSES = tuple(str(d) for d in range(10))


def load_digits(*, size: int, flip: bool, limit: int | None) -> DataSet:
    """The digits, resized to size x size; a fixed fifth, stratified by class, is held out."""
    parts = read_digits()
    # Half a pixel of the 8x8 original: two pixels at 32x32.
    return from_arrays(
        parts["train"], parts["val"], CLASSES, size=size, shift=size // 16, flip=flip, limit=limit
    )


def read_digits() -> dict[str, Arrays]:
    """The parts "train" and "val"."""
    datasets = require("sklearn.datasets", "scikit-learn")
    selection = require("sklearn.model_selection", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    rows = selection.train_test_split(
        range(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
    )
    images = torch.tensor(pixels * (255 / 16), dtype=torch.float32).view(-1, 8, 8)
    target = torch.tensor(labels, dtype=torch.int64)
    return {
        name: Arrays(images[part], target[part])
        for name, part in zip(("train", "val"), rows, strict=True)
    }
