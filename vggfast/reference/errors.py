"""How far a result is from the oracle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Errors:
    """Distance of y from ref: ``rel`` = ||y - ref|| / ||ref||, largest and rms difference.

    A NaN or infinity in y that ref does not share makes all three infinite, so it never passes.
    """

    rel: float
    max_abs: float
    rms: float


def errors(y: Tensor, ref: Tensor) -> Errors:
    """Compare y with ref of the same shape, in float64.

    Raises:
        ValueError: the shapes differ.
    """
    if y.shape != ref.shape:
        raise ValueError(
            f"y: got shape {tuple(y.shape)}, allowed is {tuple(ref.shape)}, as ref has"
        )
    if ref.numel() == 0:
        return Errors(0.0, 0.0, 0.0)
    wide = ref.detach().double()
    difference = (y.detach().double() - wide).abs()
    if not torch.isfinite(difference).all():
        return Errors(float("inf"), float("inf"), float("inf"))
    norm, size = difference.norm().item(), wide.norm().item()
    rel = norm / size if size > 0 else (0.0 if norm == 0 else float("inf"))
    return Errors(rel, difference.max().item(), norm / wide.numel() ** 0.5)
