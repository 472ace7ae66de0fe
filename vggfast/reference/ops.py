"""The ops in plain torch, as the paper states them; autograd differentiates them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv3x3(
    x: Tensor, w: Tensor, b: Tensor | None = None, relu: bool = False, pool: bool = False
) -> Tensor:
    """pool2x2?(relu?(conv(x, w, stride 1, padding 1) + b)) of x (N, C, H, W)."""
    y = F.conv2d(x, w, b, stride=1, padding=1)
    y = F.relu(y) if relu else y
    return maxpool2x2(y) if pool else y


def maxpool2x2(x: Tensor) -> Tensor:
    """The maximum of each 2x2 window, stride 2, floor."""
    return F.max_pool2d(x, kernel_size=2, stride=2)


def conv1x1(x: Tensor, w: Tensor, b: Tensor | None = None, relu: bool = False) -> Tensor:
    """relu?(conv(x, w) + b) for 1x1 weights."""
    y = F.conv2d(x, w, b)
    return F.relu(y) if relu else y


def lrn(x: Tensor, n: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75) -> Tensor:
    """a / (k + alpha * sum of a^2 over n channels)^beta, written out channel by channel."""
    below, above, channels = n // 2, (n - 1) // 2, x.shape[1]
    square = x * x
    scale = [
        k + alpha * square[:, max(0, c - below) : c + above + 1].sum(1) for c in range(channels)
    ]
    return x / torch.stack(scale, 1) ** beta


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, relu: bool = False) -> Tensor:
    """relu?(x w^T + b) of x (N, F_in)."""
    y = F.linear(x, w, b)
    return F.relu(y) if relu else y
