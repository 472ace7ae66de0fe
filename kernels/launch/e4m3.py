"""Launches of the e4m3 convolution and of what turns a map into e4m3."""

from __future__ import annotations

from math import prod

import torch
import triton
from torch import Tensor

from .. import tiles
from ..e4m3 import conv3x3_e4m3_kernel, quantize_e4m3_kernel
from .gpu import on
from .memory import operand

E4M3 = torch.float8_e4m3fn
UNIT = 16  # channels of an e4m3 map come in multiples of 16 bytes, the rest are zeros


def conv3x3_e4m3(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    pool: bool,
    dtype: torch.dtype,
) -> Tensor:
    """y = q(pool2x2?(relu?(scale * conv(x, w, stride 1, padding 1) + shift))); see ../e4m3.py.

    x e4m3 (N, C_pad, H, W) in channels_last memory; w e4m3 (9, C_out, C_pad) contiguous, tap first;
    scale, shift float32 (C_out,). y is of ``dtype``: e4m3 (N, C_out padded to 16, HO, WO), or
    float16, bfloat16 or float32 (N, C_out, HO, WO), in channels_last memory.
    """
    n, c_in, h, width = x.shape
    c_out = w.shape[1]
    ho, wo = (h // 2, width // 2) if pool else (h, width)
    per16 = UNIT // dtype.itemsize
    y = torch.empty((n, ho, wo, -(-c_out // per16) * per16), dtype=dtype, device=x.device)
    if y.numel():
        # A pool drops an odd last row or column: no box is spent on it.
        pixels = (n, 2 * ho, 2 * wo) if pool else (n, h, width)
        # sm_120 takes these tiles too: with 8 bits they fit in its shared memory.
        tile = tiles.choose("e4m3", 90, 8, pixels, c_out, c_in)
        ni, th, tw = tile.box
        counts = tile.counts(pixels)
        stored = (ni, th // 2, tw // 2) if pool else tile.box
        with on(x):
            conv3x3_e4m3_kernel[(prod(counts) * triton.cdiv(c_out, tile.bc),)](
                operand(_aligned(x.permute(0, 2, 3, 1)), tile, (*tile.box, tile.bk)),
                operand(_aligned(w.view(9 * c_out, c_in)), tile, (tile.bc, tile.bk)),
                scale,
                shift,
                operand(y, tile, (*stored, tile.bc)),
                c_in // UNIT, c_out, counts[1], counts[2],
                NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, RELU=relu, POOL=pool,
                num_warps=tile.warps, num_stages=tile.stages,
            )  # fmt: skip
    if dtype is not E4M3:
        y = y[..., :c_out].contiguous()
    return y.permute(0, 3, 1, 2)


def quantize_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """x (N, C, H, W) in channels_last memory / scale -> e4m3 (N, C padded to 16, H, W)."""
    n, c, h, w = x.shape
    c_pad = -(-c // UNIT) * UNIT
    y = torch.empty((n, h, w, c_pad), dtype=E4M3, device=x.device)
    if y.numel():
        rows, bc = n * h * w, min(128, triton.next_power_of_2(c_pad))
        br = 4096 // bc
        with on(x):
            quantize_e4m3_kernel[(triton.cdiv(rows, br), triton.cdiv(c_pad, bc))](
                x, scale, y, rows, c, c_pad, BR=br, BC=bc
            )
    return y.permute(0, 3, 1, 2)


def _aligned(t: Tensor) -> Tensor:
    """``t``, or a copy that starts where TMA can: rows are whole units of 16 bytes already."""
    return t.clone() if t.data_ptr() % 16 else t
