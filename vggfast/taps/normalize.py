"""Colours from 0 to 1 to what a network was trained on, differentiably."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vggfast.errors import InputError

Moments = tuple[Sequence[float], Sequence[float]]

# Mean and deviation of red, green and blue that torchvision's weights were trained with.
IMAGENET: Moments = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


class Normalize(nn.Module):
    """(255 x - mean) / std of images x (N, 3, H, W), RGB from 0 to 1.

    Args:
        mean, std: of red, green and blue on a 0-255 scale, as weights files have them.
        like: a tensor whose dtype and device the two get; ``.to`` moves them as it moves weights.

    Raises:
        InputError: not three finite numbers, or a deviation that is not above 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], like: Tensor) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or not np.isfinite(values).all():
                raise InputError(f"{name}: got {tuple(values)}, allowed are three finite numbers")
            value = torch.tensor(values, dtype=torch.float64).div_(255).view(1, 3, 1, 1)
            # Not persistent: a state dict holds what the network's own holds.
            self.register_buffer(name, value.to(like), persistent=False)
        if min(std) <= 0:
            raise InputError(f"std: got {tuple(std)}, allowed are three numbers above 0")

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std
