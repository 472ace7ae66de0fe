"""Decisions that rounding may turn: a ReLU near zero, a 2x2 pool whose two largest nearly tie.

There a gradient takes another path and differs by its whole size, though both kernels are right.
Numerics therefore ask for gradients only where the decision is clear.
"""

from __future__ import annotations

import torch
from torch import Tensor


def margin(dtype: torch.dtype) -> float:
    """The distance from which a decision is clear, relative to the root-mean-square.

    Sums in fp32 are off by about 1e-6, Winograd's by 1e-5, TF32's by 3e-4, and a baseline that
    rounds to a lower dtype before it pools by half a step of a value of a few rms. So no right
    kernel turns a decision this clear. It leaves out one gradient in a thousand in fp32 and one
    in thirty in bf16.
    """
    return max(1e-3, 4 * torch.finfo(dtype).eps)


def distance(z: Tensor, pool: bool, relu: bool = True) -> Tensor:
    """How far z (N, C, H, W) or (N, C) is from turning each output's decision, relative to its rms.

    Returns a tensor of the output's shape: after the ReLU if ``relu``, and the pool if
    ``pool``.
    """
    rms = z.square().mean().sqrt().clamp_min(torch.finfo(z.dtype).tiny)
    if not pool:
        return z.abs() / rms if relu else torch.full_like(z, float("inf"))
    first, second = two_largest(z)
    if not relu:
        return (first - second) / rms
    # A window with nothing above zero has one decision only: that its maximum is below zero.
    return torch.where(first > 0, torch.minimum(first, first - second), -first) / rms


def two_largest(z: Tensor) -> tuple[Tensor, Tensor]:
    """The two largest of every 2x2 window."""
    n, c, h, w = z.shape
    windows = z[:, :, : h // 2 * 2, : w // 2 * 2].unfold(2, 2, 2).unfold(3, 2, 2)
    first, second = windows.reshape(n, c, h // 2, w // 2, 4).topk(2, dim=-1).values.unbind(-1)
    return first, second


def clear_gradient(grad: Tensor, z: Tensor | None, pool: bool, relu: bool = True) -> Tensor:
    """``grad`` of a layer's output, zero where the decision on z is not clear."""
    if z is None:
        return grad
    return torch.where(distance(z, pool, relu) < margin(grad.dtype), 0, grad)
