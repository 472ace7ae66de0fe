"""The paper's preprocessing of photographs (sections 3.1 and 3.2): to train, and to evaluate."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class TrainTransform:
    """Rescale the shorter side to S, take a random crop, mirror it with probability 1/2.

    S is drawn from ``scale`` = (S_min, S_max) for each use of an image (section 3.1, scale
    jittering); equal ends fix it.
    """

    def __init__(self, size: int, scale: tuple[int, int], flip: bool) -> None:
        self.size, self.scale, self.flip = size, scale, flip

    def __call__(self, image: Image, draw: int) -> Tensor:
        rng = random.Random(draw)
        image = rescale(image, rng.randint(*self.scale))
        left, top = (rng.randint(0, side - self.size) for side in image.size)
        x = to_tensor(crop(image, left, top, self.size))
        return x.flip(-1) if self.flip and rng.random() < 0.5 else x


class EvalTransform:
    """Rescale the shorter side to the middle of ``scale`` and take the centre crop."""

    def __init__(self, size: int, scale: tuple[int, int]) -> None:
        self.size, self.scale = size, scale

    def __call__(self, image: Image, draw: int) -> Tensor:
        image = rescale(image, sum(self.scale) // 2)
        left, top = ((side - self.size) // 2 for side in image.size)
        return to_tensor(crop(image, left, top, self.size))


def rescale(image: Image, shorter: int) -> Image:
    """The image, its shorter side ``shorter`` pixels, its proportions kept."""
    from PIL.Image import Resampling

    w, h = image.size
    factor = shorter / min(w, h)
    new = (max(shorter, round(w * factor)), max(shorter, round(h * factor)))
    return image if new == (w, h) else image.resize(new, Resampling.BILINEAR)


def crop(image: Image, left: int, top: int, size: int) -> Image:
    """The size x size window whose upper left corner is at (left, top)."""
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image) -> Tensor:
    """An RGB image as (3, H, W), float32, 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
