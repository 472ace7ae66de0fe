"""Pixels to what a network is given: rescaled isotropically, the centre cut out, normalised.

As the weights were evaluated (Simonyan & Zisserman 2014, section 3.2; data/transforms.py): the
shorter side becomes S pixels, a window of ``crop`` pixels is cut out of the middle, and its pixels
become (pixel - mean) / std.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast import ops
from vggfast.data.transforms import rescaled


@dataclass(frozen=True)
class Preprocess:
    """``shorter``: S; ``crop``: the window's side; ``mean``, ``std``: of RGB, on a 0-255 scale."""

    shorter: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 (N, H, W, 3) -> ``dtype`` (N, 3, crop, crop), channels_last, on their device."""
        images = rescale(images, self.shorter)
        top, left = ((side - self.crop) // 2 for side in images.shape[1:3])
        known = dtype in (torch.float32, torch.float16, torch.bfloat16)
        x = ops.crop_images(
            images, [[top, left]] * len(images), (self.crop, self.crop), self.mean, self.std,
            dtype=dtype if known else torch.float32,
        )  # fmt: skip
        return x.to(dtype)


def rescale(images: Tensor, shorter: int) -> Tensor:
    """uint8 (N, H, W, 3) with ``shorter`` pixels on the shorter side; as they are if they have it.

    Bilinear, each pixel weighting all those that it covers, as PIL does it.
    """
    h, w = images.shape[1:3]
    size = rescaled((w, h), shorter)[::-1]
    if size == (h, w):
        return images
    x = images.permute(0, 3, 1, 2).float()
    x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
    return x.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
