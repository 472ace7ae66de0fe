"""How large the maps of a network get: what enters each convolution, over batches of images."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.nn import FusedSequential


class Observed(nn.Module):
    """A part of a network that notes the largest absolute value of what enters it.

    Args:
        part: a 3x3 convolution and what is fused with it.
        name: the convolution's name in the network, for messages.
    """

    def __init__(self, part: FusedSequential, name: str) -> None:
        super().__init__()
        self.part, self.name = part, name
        self.percentile: float | None = None
        self.peak: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            raise InputError(
                f"calibration: got images that make values which are not finite before "
                f"{self.name}, allowed are finite ones throughout"
            )
        if x.numel():
            peak = _peak(x, self.percentile)
            self.peak = peak if self.peak is None else max(peak, self.peak)
        y: Tensor = self.part(x)
        return y


def calibrate(
    model: nn.Module, batches: Iterable[Tensor], layers: list[Observed], percentile: float | None
) -> None:
    """Run ``model`` on ``batches``, so that every one of its ``layers`` gets a peak.

    Raises:
        InputError: there is no batch, or one is not what :func:`vggfast.quantize` allows.
    """
    for layer in layers:
        layer.percentile = percentile
    like = next(model.parameters())
    with torch.no_grad():
        for number, batch in enumerate(_iterable(batches)):
            _check(batch, number)
            model(batch.to(like.device, like.dtype))
    for layer in layers:
        if layer.peak is None:
            raise InputError(
                f"calibration: got no values before {layer.name}, allowed are one or more batches "
                "of images that reach it"
            )


def _iterable(batches: Iterable[Tensor]) -> Iterable[Tensor]:
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise InputError(
            f"calibration: got one {type(batches).__name__}, allowed is an iterable of batches of "
            "images, such as a list of tensors (N, C, H, W)"
        )
    return batches


def _check(batch: object, number: int) -> None:
    if not isinstance(batch, Tensor):
        raise InputError(
            f"calibration: got {type(batch).__name__} as batch {number}, allowed is a torch.Tensor"
        )
    if not batch.is_floating_point():
        raise InputError(
            f"calibration: got {batch.dtype} as batch {number}, allowed is a floating dtype"
        )
    if not torch.isfinite(batch).all():
        raise InputError(
            f"calibration: got NaN or infinity in batch {number}, allowed are finite values"
        )


def _peak(x: Tensor, percentile: float | None) -> float:
    size = x.detach().abs().flatten().float()
    if percentile is None:
        return size.max().item()
    k = max(1, math.ceil(percentile / 100 * size.numel()))
    return size.kthvalue(min(k, size.numel())).values.item()
