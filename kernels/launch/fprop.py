"""Launches of the convolution forward, which is dgrad too (on rotated weights)."""

from __future__ import annotations

from math import prod

import torch
import triton
from torch import Tensor

from ..conv3x3 import conv3x3_fprop_kernel
from .gpu import choose_tile
from .memory import empty_argmax, operand, unit


def fprop(
    x: Tensor,
    rows: Tensor,
    c_out: int,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    mirror: bool,
) -> tuple[Tensor, Tensor | None]:
    """x (N, H, W, padded C_in), rows (9 * c_out, padded C_in) -> y (N, HO, WO, c_out), argmax."""
    n, h, w, c_in = x.shape
    ho, wo = (h // 2, w // 2) if pool else (h, w)
    per16 = unit(x)
    y = torch.empty((n, ho, wo, -(-c_out // per16) * per16), dtype=x.dtype, device=x.device)
    argmax = empty_argmax(y[..., :c_out]) if pool and save_argmax else None
    if y.numel():
        # A pool drops an odd last row or column: no box is spent on it.
        pixels = (n, 2 * ho, 2 * wo) if pool else (n, h, w)
        op = "dgrad" if mirror else "fprop"
        tile = choose_tile("fprop", x, pixels, c_out, c_in, op, pool)
        ni, th, tw = tile.box
        counts = tile.counts(pixels)
        stored = (ni, th // 2, tw // 2) if pool else tile.box
        conv3x3_fprop_kernel[(prod(counts) * triton.cdiv(c_out, tile.bc),)](
            operand(x, tile, (*tile.box, tile.bk)),
            operand(rows, tile, (tile.bc, tile.bk)),
            b,
            operand(y, tile, (*stored, tile.bc)),
            argmax,
            n, h, w, ho, wo, c_in // per16, y.shape[3] // per16, c_out, counts[1], counts[2],
            NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, RELU=relu, POOL=pool, MIRROR=mirror,
            TMA=tile.arch >= 90, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y[..., :c_out].contiguous(), argmax
