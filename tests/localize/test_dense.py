"""Dense boxes against the network on every window, and against itself on a crop."""

from __future__ import annotations

import pytest
import torch

from tests.evaluation.helpers import window_by_window
from vggfast import reference
from vggfast.errors import InputError
from vggfast.localization.dense import dense_boxes

from .helpers import regressor


@pytest.mark.parametrize("boxes", ["scr", "pcr"])
@pytest.mark.parametrize(("crop", "size"), [(32, (70, 97)), (64, (64, 130)), (96, (128, 161))])
def test_every_window(boxes: str, crop: int, size: tuple[int, int]) -> None:
    model, x = regressor(boxes, crop, classes=5), torch.randn(2, 3, *size)
    labels = torch.tensor([[4, 0, 2], [1, 1, 3]])
    with torch.inference_mode():
        numbers = window_by_window(model, x, torch.float64)
        narrow = dense_boxes(model, x, labels)
        wide = dense_boxes(model.double(), x.double(), labels)
    rows, columns = numbers.shape[2:]
    exact = torch.empty(2, 3, rows * columns, 4, dtype=torch.float64)
    for n in range(2):
        for k in range(3):
            first = 0 if boxes == "scr" else 4 * int(labels[n, k])
            for i in range(rows):
                for j in range(columns):
                    cx, cy, w, h = (numbers[n, first : first + 4, i, j] * crop / 2).tolist()
                    cx, cy = cx + 32 * j + crop / 2, cy + 32 * i + crop / 2
                    w, h = max(w, 0), max(h, 0)
                    exact[n, k, i * columns + j] = torch.tensor(
                        [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                    )
    torch.testing.assert_close(wide, exact, rtol=1e-6, atol=1e-5)
    assert wide.dtype == torch.float64
    assert narrow.dtype == torch.float32
    assert reference.errors(narrow, exact).rel < 1e-4


def test_a_crop_has_one_window() -> None:
    model, x = regressor(crop=64), torch.randn(3, 3, 64, 64)
    labels = torch.tensor([[2], [0], [9]])
    with torch.inference_mode():
        found, outputs = dense_boxes(model, x, labels), model(x)
    assert found.shape == (3, 1, 1, 4)
    own = torch.stack([row[4 * k : 4 * k + 4] for row, k in zip(outputs, (2, 0, 9), strict=True)])
    centre = (found[:, 0, 0, :2] + found[:, 0, 0, 2:]) / 2
    torch.testing.assert_close(centre, own[:, :2] * 32 + 32)


def test_an_image_smaller_than_the_crop() -> None:
    with pytest.raises(InputError, match="H, W >= 64"):
        dense_boxes(regressor(), torch.randn(1, 3, 60, 80), torch.zeros(1, 1, dtype=torch.int64))
