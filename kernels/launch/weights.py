"""Weights as rows for the convolution: packed by one kernel, kept as kept.py says."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .. import kept
from ..pack3x3 import pack3x3_kernel
from .gpu import on
from .memory import unit

_BR, _BC = 16, 64


def tap_rows(w: Tensor, transposed: bool) -> Tensor:
    """w (C_out, C_in, 3, 3) -> (9 * C_out, padded C_in), or transposed (9 * C_in, padded C_out).

    Any strides. What is returned may be kept for later calls: it is read, never written.
    """
    return kept.packed(w, ("rows", transposed), lambda w, rows: pack(w, transposed, rows))


def pack(w: Tensor, transposed: bool, rows: Tensor | None = None) -> Tensor:
    """The rows of w by one launch, in new memory or in ``rows``."""
    r, c = (1, 0) if transposed else (0, 1)
    stride, per16 = w.stride(), unit(w)
    c_pad = -(-w.shape[c] // per16) * per16
    if rows is None:
        rows = torch.empty((9 * w.shape[r], c_pad), dtype=w.dtype, device=w.device)
    with on(w):
        pack3x3_kernel[(triton.cdiv(w.shape[r], _BR), triton.cdiv(c_pad, _BC))](
            w, rows, w.shape[r], w.shape[c], c_pad, stride[r], stride[c], stride[2], stride[3],
            BR=_BR, BC=_BC,
        )  # fmt: skip
    return rows
