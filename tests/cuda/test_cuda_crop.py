"""crop_images of the cuda backend against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cuda.conftest import DTYPES
from vggfast import ops

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def wanted(images, corners, size, flips, shifts):
    out = np.zeros((len(images), *size, 3))
    for image, (y, x), flip, shift, to in zip(images, corners, flips, shifts, out, strict=True):
        for r in range(size[0]):
            for c in range(size[1]):
                row, column = y + r, x + (size[1] - 1 - c if flip else c)
                if 0 <= row < image.shape[0] and 0 <= column < image.shape[1]:
                    to[r, c] = (image[row, column] - np.array(MEAN) + shift) / np.array(STD)
    return torch.from_numpy(out).permute(0, 3, 1, 2)


@pytest.mark.parametrize("backend", ["cuda", "eager"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(8, 16), (5, 7), (9, 40)], ids=str)
def test_images_of_several_sizes(size, dtype, backend, device):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((12, 20), (9, 17), (30, 11))]
    packed = np.concatenate([np.zeros(5, np.uint8), *(i.ravel() for i in images)])
    offsets = 5 + np.cumsum([0, *(i.size for i in images[:-1])])
    corners = np.array([(1, 2), (-2, 3), (20, -4)])
    flips, shifts = np.array([False, True, True]), rng.normal(0, 9, (3, 3))
    y = ops.crop_images(
        torch.from_numpy(packed).to(device), corners, size, MEAN, STD, flips=flips, shifts=shifts,
        offsets=offsets, sizes=[i.shape[:2] for i in images], dtype=dtype, backend=backend,
    )  # fmt: skip
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    want = wanted(images, corners, size, flips, shifts)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(y.cpu().double(), want, rtol=eps, atol=4e-6)


@pytest.mark.parametrize("backend", ["cuda", "eager"])
def test_images_of_one_size(backend, device):
    images = torch.randint(0, 256, (4, 10, 12, 3), dtype=torch.uint8)
    corners = torch.tensor([[0, 0], [2, 4], [1, 1], [2, 0]])
    y = ops.crop_images(images.to(device), corners, (8, 8), MEAN, STD, backend=backend)
    plain = np.zeros(4, bool), np.zeros((4, 3))
    want = wanted(images.numpy(), corners.tolist(), (8, 8), *plain)
    torch.testing.assert_close(y.cpu().double(), want, rtol=1e-6, atol=1e-6)
    empty = ops.crop_images(images[:0].to(device), corners[:0], (8, 8), MEAN, STD, backend=backend)
    assert empty.shape == (0, 3, 8, 8)
