"""Launches of a chain's backward pass: dgrad fused with the way back through the layer below."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from .. import precision, tiles
from ..dgrad3x3 import conv3x3_dgrad_kernel, conv3x3_dgrad_sum_kernel
from .gpu import choose_tile, row_share
from .memory import operand, unit

_SUM_ROWS, _SUM_CHANNELS = 16, 64  # a block of the bias gradient's addition


def dgrad(
    dz: Tensor,
    rows: Tensor,
    y: Tensor,
    c: int,
    argmax: Tensor | None,
    size: tuple[int, int],
    want_db: bool,
) -> tuple[Tensor, Tensor | None]:
    """Through a convolution and the ReLU and pool of the layer below it.

    dz (N, H, W, padded C_out) of this layer, rows (9 * c, padded C_out), y (N, H, W, padded c) the
    output of the layer below, argmax uint8 (N, H, W, ceil(c / 4)) if that has a pool, (HB, WB) =
    ``size`` of its map -> its dz (N, HB, WB, c) and its bias gradient (c,) or None.
    """
    n, h, w, c_out = dz.shape
    per16 = unit(dz)
    below = torch.empty((n, *size, y.shape[3]), dtype=dz.dtype, device=dz.device)
    if n == 0:
        db = torch.zeros(c, dtype=dz.dtype, device=dz.device) if want_db else None
        return below[..., :c].contiguous(), db
    # Behind a pool of an odd map one more row or column of windows writes that map's zeros.
    pixels = (n, h, w) if argmax is None else (n, (size[0] + 1) // 2, (size[1] + 1) // 2)
    tile = choose_tile("dgrad", dz, pixels, c, c_out)
    ni, th, tw = tile.box
    counts = tile.counts(pixels)
    boxes = prod(counts)
    partial = torch.empty((boxes, c), dtype=torch.float32, device=dz.device) if want_db else None
    conv3x3_dgrad_kernel[(boxes * triton.cdiv(c, tile.bc),)](
        operand(dz, tile, (*tile.box, tile.bk)),
        operand(rows, tile, (tile.bc, tile.bk)),
        operand(y, tile, (*tile.box, tile.bc)),
        argmax,
        *_below(below, tile, argmax is not None),
        partial,
        n, h, w, *size, c_out // per16, y.shape[3] // per16, c, counts[1], counts[2],
        NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, TMA=tile.arch >= 90,
        PRECISION=precision.of(dz.dtype), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return below[..., :c].contiguous(), None if partial is None else _row_sum(partial, dz.dtype)


def _below(below: Tensor, tile: tiles.Tile, pool: bool) -> tuple[Any, Any, Any, Any]:
    """The kernel's four arguments for the map it writes."""
    box = (*tile.box, tile.bc)
    if not pool or tile.arch < 90:
        return operand(below, tile, box), None, None, None
    at = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return tuple(operand(below[:, dh::2, dw::2], tile, box) for dh, dw in at)


def _row_sum(partial: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, C) float32 -> (C,) of ``dtype``: many programs add rows, one the programs' sums."""
    rows, c = partial.shape
    share, programs = row_share(rows, _SUM_ROWS, partial.device)
    blocks = triton.cdiv(c, _SUM_CHANNELS)
    if programs > 1:
        parts = torch.empty((programs, c), dtype=torch.float32, device=partial.device)
        conv3x3_dgrad_sum_kernel[(programs, blocks)](
            partial, parts, rows, c, share, BP=_SUM_ROWS, BC=_SUM_CHANNELS
        )
        partial, rows = parts, programs
    db = torch.empty((c,), dtype=dtype, device=partial.device)
    share = triton.cdiv(rows, _SUM_ROWS) * _SUM_ROWS
    conv3x3_dgrad_sum_kernel[(1, blocks)](
        partial, db, rows, c, share, BP=_SUM_ROWS, BC=_SUM_CHANNELS
    )
    return db
