"""Launches of the weight gradient: partial sums over splits of the map, then their sum in order."""

from __future__ import annotations

from math import prod

import torch
import triton
from torch import Tensor

from .. import precision
from ..splits import MAX_PARTIALS, share, wgrad_splits
from ..wgrad3x3 import conv3x3_wgrad_kernel, conv3x3_wgrad_sum_kernel
from .gpu import choose_tile, cores
from .memory import operand, unit, workspace


def wgrad(x: Tensor, dz: Tensor, w: Tensor) -> Tensor:
    """x (N, H, W, padded C_in), dz (N, H, W, padded C_out) -> dw like w."""
    n, h, width, _ = x.shape
    c_out, c_in = w.shape[:2]
    dw = torch.empty((c_out, c_in, 3, 3), dtype=w.dtype, device=w.device)
    if x.numel() == 0:
        return dw.zero_()
    tile = choose_tile("wgrad", x, (n, h, width), c_out, c_in)
    ni, th, tw = tile.box
    _, tiles_h, tiles_w = tile.counts((n, h, width))
    boxes = prod(tile.counts((n, h, width)))
    blocks = triton.cdiv(c_out, tile.bc) * triton.cdiv(c_in, tile.bk)
    programs = 9 // tile.taps * blocks
    wanted = wgrad_splits(tile, programs, boxes, 9 * c_out * c_in, cores(x.device))
    per_split, splits = share(boxes, min(wanted, MAX_PARTIALS // (9 * c_out * c_in)))
    partial = workspace((splits, 9, c_out, c_in), x, "wgrad")
    conv3x3_wgrad_kernel[(programs, splits)](
        operand(x, tile, (*tile.box, tile.bk)),
        operand(dz, tile, (*tile.box, tile.bc)),
        partial,
        n, h, width, x.shape[3] // unit(x), dz.shape[3] // unit(x), c_in, c_out,
        tiles_h, tiles_w, boxes, per_split,
        NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, TAPS=tile.taps, TMA=tile.arch >= 90,
        PRECISION=precision.of(x.dtype), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    pairs, block = c_out * c_in, 1024
    conv3x3_wgrad_sum_kernel[(triton.cdiv(pairs, block), 9)](partial, dw, pairs, splits, B=block)
    return dw
