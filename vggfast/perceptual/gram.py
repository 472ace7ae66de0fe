"""The Gram matrix of a feature map: which channels are large at the same places.

G = F F^T / (C H W) with the map F as C rows of H W values (Gatys et al. 2016, equation 3, divided
as in Johnson et al. 2016, equation 3), so maps of any size compare.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vggfast.backends.base import channels_last_empty
from vggfast.errors import InputError


def gram_matrix(x: Tensor) -> Tensor:
    """G (N, C, C) = sum over places of x_c x_d / (C H W); differentiable once.

    Args:
        x: (N, C, H, W), at least one value an image, any strides, best channels_last. Of float16
            and bfloat16 the sums are made in float32, which is G's dtype then.

    Raises:
        InputError: another shape.
    """
    if x.dim() != 4 or 0 in x.shape[1:]:
        raise InputError(
            f"x: got shape {tuple(x.shape)}, allowed is (N, C, H, W) with C, H, W >= 1"
        )
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    # Under autocast a product would be made in 16 bits.
    with torch.autocast(x.device.type, enabled=False):
        g: Tensor = _Gram.apply(x)
    return g


def _rows(x: Tensor) -> Tensor:
    """(N, H W, C): a view, where x is channels_last."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h * w, c)


class _Gram(torch.autograd.Function):
    """torch's own gradient of F F^T makes two products, one for each factor, and adds two maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        rows = _rows(x)
        return torch.bmm(rows.mT, rows).div_(x[0].numel() if len(x) else 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        n, c, h, w = x.shape
        dx = channels_last_empty(n, c, h, w, x)
        # Into a map that is no view: autograd adds the gradient from above in place then.
        rows = dx.permute(0, 2, 3, 1).view(n, h * w, c)
        torch.bmm(_rows(x), (grad + grad.mT).div_(c * h * w), out=rows)
        return dx
