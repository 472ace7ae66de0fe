"""Launches of the convolution forward, which is dgrad too (on rotated weights)."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from .. import external, precision
from ..conv3x3 import conv3x3_fprop_kernel
from ..split3x3 import conv3x3_join_kernel, conv3x3_split_kernel
from ..splits import fprop_splits, share
from . import flat, gluon
from .gpu import choose_tile, cores
from .memory import empty_argmax, operand, unit, workspace
from .weights import tap_rows

_JOINED = 16  # channels a program of the joining kernel takes


def fprop(
    x: Tensor,
    weights: Tensor,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    mirror: bool,
) -> tuple[Tensor, Tensor | None]:
    """x (N, H, W, padded C_in), weights (c_out, C_in, 3, 3) -> y (N, HO, WO, c_out), argmax.

    ``mirror``: weights (C_in, c_out, 3, 3), for dgrad of the convolution with them.
    """
    n, h, w, c_in = x.shape
    c_out = weights.shape[1 if mirror else 0]
    ho, wo = (h // 2, w // 2) if pool else (h, w)
    per16 = unit(x)
    size = (n, ho, wo, -(-c_out // per16) * per16)
    if n == 0:
        y = torch.empty((n, ho, wo, c_out), dtype=x.dtype, device=x.device)
        return y, empty_argmax(y) if pool and save_argmax else None
    # A pool drops an odd last row or column: no box is spent on it.
    pixels = (n, 2 * ho, 2 * wo) if pool else (n, h, w)
    op = "dgrad" if mirror else "fprop"
    tile = choose_tile("fprop", x, pixels, c_out, c_in, op, pool)
    if tile.form == "cuda":
        nchw, argmax = external.run(
            tile, x.permute(0, 3, 1, 2), weights, b, relu, pool, save_argmax, mirror
        )
        return nchw.permute(0, 2, 3, 1), argmax
    rows = tap_rows(weights, mirror)
    y = torch.empty(size, dtype=x.dtype, device=x.device)
    argmax = empty_argmax(y[..., :c_out]) if pool and save_argmax else None
    if tile.form == "gluon":
        gluon.launch(x, rows, b, y, argmax, c_out, pixels, tile, relu, pool, mirror)
        return y[..., :c_out].contiguous(), argmax
    if tile.form == "flat":
        flat.launch(x, rows, b, y, c_out, tile, relu, pool, mirror)
        return y[..., :c_out].contiguous(), argmax
    _, tiles_h, tiles_w = tile.counts(pixels)
    programs = tile.programs(pixels, c_out)
    steps = 9 * triton.cdiv(c_in, tile.bk)
    each, splits = share(steps, fprop_splits(tile, programs, steps, cores(x.device)))

    ni, th, tw = tile.box
    box: dict[str, Any] = {"NI": ni, "TH": th, "TW": tw, "BC": tile.bc}
    stored = (ni, th // 2, tw // 2) if pool else tile.box
    how: dict[str, Any] = {"TMA": tile.arch >= 90, "num_warps": tile.warps}
    sums: dict[str, Any] = {
        "BK": tile.bk, "MIRROR": mirror, "PRECISION": precision.of(x.dtype),
        "num_stages": tile.stages,
    }  # fmt: skip
    x_box = operand(x, tile, (*tile.box, tile.bk))
    w_box = operand(rows, tile, (tile.bc, tile.bk))
    if splits == 1:
        started = min(programs, cores(x.device)) if tile.persistent else programs
        conv3x3_fprop_kernel[(started,)](
            x_box, w_box, b, operand(y, tile, (*stored, tile.bc)), argmax,
            n, h, w, ho, wo, c_in // per16, y.shape[3] // per16, c_out, tiles_h, tiles_w,
            programs, RELU=relu, POOL=pool, PERSISTENT=tile.persistent, **box, **sums, **how,
        )  # fmt: skip
    else:
        partial = workspace((splits, programs, tile.bc, ni * th * tw), x, "fprop")
        conv3x3_split_kernel[(programs, splits)](
            x_box, w_box, partial, n, h, w, c_in // per16, c_out, tiles_h, tiles_w,
            programs, each, **box, **sums, **how,
        )  # fmt: skip
        conv3x3_join_kernel[(programs, tile.bc // _JOINED)](
            partial, b, operand(y, tile, (*stored, _JOINED)), argmax,
            n, ho, wo, y.shape[3] // per16, c_out, tiles_h, tiles_w,
            programs, splits, RELU=relu, POOL=pool, BJ=_JOINED, **box, **how,
        )  # fmt: skip
    return y[..., :c_out].contiguous(), argmax
