"""Crops for training and validation, with a class and a box each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggfast.data.base import DataSet, require
from vggfast.data.colour import Colours
from vggfast.data.decode import Photograph
from vggfast.data.photos import PhotoSamples
from vggfast.data.transforms import CentreCrop, Window
from vggfast.localization.boxes import area, encode, mirror, rescale
from vggfast.localization.crops import ObjectCrop
from vggfast.localization.readers import Annotated, Boxes


@dataclass(frozen=True)
class BoxSamples(PhotoSamples):
    """Crops of annotated images; a target (5,), float32, is a class number and a box (boxes.py).

    Of several boxes the draw chooses one for an :class:`ObjectCrop`, the largest is that of a
    centre crop. It is not cut off at the crop's border.
    """

    crop: ObjectCrop | CentreCrop  # type: ignore[assignment]
    boxes: Boxes = Boxes([])  # noqa: RUF009 - nothing changes it

    def _cut(self, i: int, draw: int) -> tuple[Window, np.ndarray, Any]:
        place = self.source.place(i)
        photograph = Photograph(self.source.read(i), place)
        boxes = self.boxes.within(i, photograph.size, place)
        if isinstance(self.crop, ObjectCrop):
            box = boxes[draw % len(boxes)]
            window = self.crop.plan(draw, photograph.size, box)
        else:
            box = boxes[area(boxes).argmax()]
            window = self.crop.plan(draw, photograph.size)
        target = in_window(box, window, photograph.size)
        return window, photograph.crop(window), [float(self.source.labels[i]), *target.tolist()]

    def _targets(self, targets: list[Any]) -> Tensor:
        return torch.tensor(targets, dtype=torch.float32).view(-1, 5)


def in_window(boxes: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """What a network should give of boxes (..., 4) of an image of ``size`` = (width, height)."""
    moved = rescale(boxes, size, window.scaled)
    left = window.left
    if window.flip:
        moved = mirror(moved, window.scaled[0])
        left = window.scaled[0] - left - window.size
    return encode(moved, moved.new_tensor([left, window.top]), window.size)


def box_set(
    train: Annotated,
    val: Annotated,
    *,
    size: int,
    scale: tuple[int, int],
    flip: bool,
    mean: Sequence[float],
    std: Sequence[float],
    on_bad_image: str,
) -> DataSet:
    """The data set for training: object crops, and centre crops to validate on.

    Args:
        train, val: the parts.
        size: the crop's side in pixels.
        scale: (S_min, S_max), the shorter sides that images are rescaled to.
        flip: mirror training images at random.
        mean, std: of the classification network that is started from.
        on_bad_image: "fail" or "skip", as :func:`vggfast.data.load` has it.
    """
    require("PIL.Image", "Pillow")
    colours = Colours(tuple(mean), tuple(std))
    skip = on_bad_image == "skip"
    return DataSet(
        BoxSamples(
            train.source, ObjectCrop(size, scale, flip), colours, skip, True, boxes=train.boxes
        ),
        BoxSamples(val.source, CentreCrop(size, scale), colours, skip, boxes=val.boxes),
        train.classes,
        colours.mean,
        colours.std,
    )
