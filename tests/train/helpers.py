"""What several of the training tests use."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vggfast import configs
from vggfast.models.vgg import VGG


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


def narrow_nets(patch: pytest.MonkeyPatch) -> None:
    """Every configuration with an eighth of its channels and 32 units in an FC layer.

    A checkpoint is 2 MB then instead of 225, and a step takes milliseconds: for tests of what
    happens around the steps.
    """
    if configs.FC_WIDTH == 32:
        return  # they are

    def eighth(item: configs.Item) -> configs.Item:
        if isinstance(item, tuple):
            return item[0] // 8, item[1]
        return item if isinstance(item, str) else item // 8

    for net, items in list(configs.CONFIGS.items()):
        patch.setitem(configs.CONFIGS, net, tuple(map(eighth, items)))
    models = sys.modules[VGG.__module__]  # vggfast.models.vgg is also a function's name
    for module in (configs, models):
        patch.setattr(module, "FC_WIDTH", 32)
    layers = configs.fc_layers

    def fc_layers(num_classes: int = 1000, crop: int = 224) -> list[configs.Layer]:
        first, *rest = layers(num_classes, crop)
        return [replace(first, c_in=first.c_in // 8), *rest]

    patch.setattr(models, "fc_layers", fc_layers)


def on_the_cpu(settings: type) -> Iterator[None]:
    """While suspended, ``settings`` that name no device mean the CPU, with a GPU beside too."""
    real = settings.torch_device.fget  # type: ignore[attr-defined]

    def chosen(self: object) -> torch.device:
        return torch.device("cpu") if self.device == "auto" else real(self)  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "torch_device", property(chosen))
        yield
