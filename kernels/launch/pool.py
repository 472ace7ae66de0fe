"""Launches of max-pool, its way back, and the way back through a fused ReLU and pool."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ..pool2x2 import (
    column_sum_kernel,
    maxpool2x2_kernel,
    pool_backward_kernel,
    relu_backward_kernel,
)  # fmt: skip
from .gpu import on, row_share
from .memory import aligned, empty_argmax, empty_partial, unit

_BLOCK = 1024  # elements a program of the element-wise kernels holds at a time


def maxpool2x2(x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
    """The maxima (N, C, H // 2, W // 2) of the 2x2 windows of x, and the packed argmax or None."""
    n, c, h, w = x.shape
    y = torch.empty((n, h // 2, w // 2, c), dtype=x.dtype, device=x.device)
    argmax = empty_argmax(y) if save_argmax else None
    if y.numel():
        bp, bc = _element_block(c)
        grid = (triton.cdiv(y.numel() // c, bp), triton.cdiv(c, bc))
        with on(x):
            maxpool2x2_kernel[grid](x, y, argmax, n, h, w, c, BP=bp, BC=bc)
    return y.permute(0, 3, 1, 2), argmax


def maxpool2x2_backward(grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """dx (N, C, height, width): ``grad`` at each window's winner, zero elsewhere."""
    n, c = grad.shape[:2]
    dx = torch.empty((n, height, width, c), dtype=grad.dtype, device=grad.device)
    if dx.numel():
        with on(grad):
            _scatter(grad, None, argmax, dx, False)
    return dx.permute(0, 3, 1, 2)


def epilogue_backward(
    grad: Tensor,
    y: Tensor | None,
    argmax: Tensor | None,
    x_shape: Any,
    want_dz: bool,
    want_db: bool,
) -> tuple[Any, Tensor | None]:
    """Through pool and ReLU: dz (N, H, W, padded C_out), None if not wanted, and db or None."""
    n, c, h, w = grad.shape
    n, _, h, w = x_shape
    c_pad = -(-c // unit(grad)) * unit(grad)
    size = (n, h, w, c_pad)
    if grad.numel() == 0:
        db = torch.zeros(c, dtype=grad.dtype, device=grad.device) if want_db else None
        return torch.zeros(size, dtype=grad.dtype, device=grad.device), db
    if argmax is not None:
        whole = torch.empty(size, dtype=grad.dtype, device=grad.device)
        return whole, _scatter(grad, y, argmax, whole, want_db)
    as_is = y is None or not want_dz
    dz = None if as_is else torch.empty(size, dtype=grad.dtype, device=grad.device)
    db = _mask(grad, y, dz, want_db) if want_db or not as_is else None
    if want_dz and y is None:
        dz = aligned(grad.permute(0, 2, 3, 1))
    return dz, db


def _scatter(
    grad: Tensor, y: Tensor | None, argmax: Tensor, dz: Tensor, want_db: bool
) -> Tensor | None:
    """Fill dz (N, H, W, C or more) from the pooled ``grad``; the channel sums if wanted."""
    n, h, w, c_pad = dz.shape
    c = grad.shape[1]
    bp, bc = _element_block(c_pad)
    rows, programs = row_share(n * ((h + 1) // 2) * ((w + 1) // 2), bp, grad.device)
    partial = empty_partial(programs, grad) if want_db else None
    pool_backward_kernel[(programs, triton.cdiv(c_pad, bc))](
        grad, y, argmax, dz, partial, n, h, w, c, c_pad, rows, BP=bp, BC=bc
    )
    return None if partial is None else _column_sum(partial, grad.dtype)


def _mask(grad: Tensor, y: Tensor | None, dz: Tensor | None, want_db: bool) -> Tensor | None:
    """Fill dz (N, H, W, C or more), unless None, with the masked grad; channel sums if wanted."""
    n, c, h, w = grad.shape
    c_pad = c if dz is None else dz.shape[3]
    bp, bc = _element_block(c_pad)
    rows, programs = row_share(n * h * w, bp, grad.device)
    partial = empty_partial(programs, grad) if want_db else None
    relu_backward_kernel[(programs, triton.cdiv(c_pad, bc))](
        grad, y, dz, partial, n * h * w, c, c_pad, rows, BP=bp, BC=bc
    )
    return None if partial is None else _column_sum(partial, grad.dtype)


def _column_sum(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """(programs, C) float32 -> (C,) of ``dtype``."""
    c = partial.shape[1]
    db = torch.empty((c,), dtype=dtype, device=partial.device)
    column_sum_kernel[(triton.cdiv(c, 64),)](partial, db, partial.shape[0], c, BP=16, BC=64)
    return db


def _element_block(c: int) -> tuple[int, int]:
    """(rows, channels) of a block of the element-wise kernels for ``c`` channels."""
    bc = min(64, max(4, triton.next_power_of_2(c)))
    return _BLOCK // bc, bc
