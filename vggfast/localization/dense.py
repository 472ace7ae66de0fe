"""Boxes at every place of an image: the regressor applied densely (evaluation/dense.py).

The window at row i and column j of the map begins at pixel (32 j, 32 i), so its numbers are those
of a crop there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.configs import DOWNSAMPLING
from vggfast.evaluation.dense import apply_densely
from vggfast.localization.boxes import decode
from vggfast.models.boxes import BoxRegressor, of_class


def dense_boxes(model: BoxRegressor, x: Tensor, labels: Tensor) -> Tensor:
    """A box for each place and class.

    Args:
        model: in eval mode.
        x: images (N, 3, H, W), normalised, H, W >= the crop.
        labels: (N, K), int64: of each image the classes wanted.

    Returns:
        (N, K, places, 4), corners in pixels of x, float32 or float64; the places are those of
        :func:`vggfast.evaluation.class_maps`, row by row.

    Raises:
        InputError: an image smaller than the crop.
    """
    outputs = apply_densely(model, x, model.classifier)
    n, f, rows, columns = outputs.shape
    flat = outputs.permute(0, 2, 3, 1).reshape(-1, f)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    numbers = of_class(flat, labels.repeat_interleave(rows * columns, 0))  # (N places, K, 4)
    boxes = decode(
        numbers.view(n, rows * columns, -1, 4), _corners(rows, columns, flat), model.crop
    )
    return boxes.transpose(1, 2)


def _corners(rows: int, columns: int, like: Tensor) -> Tensor:
    """(places, 1, 2): (x, y) of each window's upper left corner."""
    y, x = (torch.arange(side, device=like.device) for side in (rows, columns))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    return (DOWNSAMPLING * grid).view(-1, 1, 2).to(like.dtype)
