"""Boxes: corners, what a network says of a crop, and how far two boxes agree.

A box is (x1, y1, x2, y2) in pixels, x to the right and y down from the image's upper left corner;
the ends are places between pixels, so a box of one pixel is (0, 0, 1, 1).

A network gives four numbers (centre x, centre y, width, height), in half sides of its crop and from
the crop's centre: the whole crop is (0, 0, 2, 2), its upper left quarter (-0.5, -0.5, 1, 1). They
may point outside the crop.
"""

from __future__ import annotations

import torch
from torch import Tensor


def encode(boxes: Tensor, corners: Tensor, crop: int) -> Tensor:
    """The numbers that a network should give of boxes.

    Args:
        boxes: (..., 4), corners in pixels of the rescaled image.
        corners: (..., 2), (x, y) of the crops' upper left corners there.
        crop: side of the crops in pixels.

    Returns:
        (..., 4).
    """
    half = crop / 2
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2 - corners - half
    return torch.cat([centre, boxes[..., 2:] - boxes[..., :2]], -1) / half


def decode(numbers: Tensor, corners: Tensor, crop: int) -> Tensor:
    """The corners (..., 4) of boxes of which a network gives ``numbers``: undoes :func:`encode`.

    A negative width or height gives a box without area, in the place of its centre.
    """
    half = crop / 2
    centre, size = numbers[..., :2] * half + half + corners, numbers[..., 2:].clamp(min=0) * half
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def mirror(boxes: Tensor, width: float) -> Tensor:
    """Boxes (..., 4) in the mirror image, left to right, of an image ``width`` pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], -1)


def rescale(boxes: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) of an image of ``old`` = (width, height) in the same image at ``new``."""
    return boxes * boxes.new_tensor([n / o for n, o in zip(new, old, strict=True)] * 2)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (..., 4) cut off at the borders of an image of ``size`` = (width, height)."""
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([*size, *size]))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4) and (..., 4), broadcast; 0 for boxes without area.

    A box without area has no overlap with anything, itself included.
    """
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    both = sides.clamp(min=0).prod(-1)
    union = area(a) + area(b) - both
    return torch.where(both > 0, both / union, torch.zeros_like(both))


def area(boxes: Tensor) -> Tensor:
    """Areas (...) of boxes (..., 4), 0 for those with ends in the wrong order."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
