"""Launches of the first layer's kernels: convolutions of at most three input channels."""

from __future__ import annotations

from math import prod

import torch
import triton
from torch import Tensor

from ..first3x3 import first_fprop_kernel, first_sum_kernel, first_wgrad_kernel
from ..first_plan import CHANNELS as CHANNELS
from ..first_plan import TURNS, resident
from ..splits import MAX_PARTIALS, share
from .gpu import choose_tile, cores
from .memory import empty_argmax, operand, unit, workspace


def fprop(
    x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
) -> tuple[Tensor, Tensor | None]:
    """x (N, H, W, C_in), w (C_out, C_in, 3, 3) -> y (N, HO, WO, C_out), argmax or None."""
    n, h, width, c_in = x.shape
    c_out = w.shape[0]
    ho, wo = (h // 2, width // 2) if pool else (h, width)
    per16 = unit(x)
    y = torch.empty((n, ho, wo, -(-c_out // per16) * per16), dtype=x.dtype, device=x.device)
    argmax = empty_argmax(y[..., :c_out]) if pool and save_argmax else None
    if y.numel():
        # A pool drops an odd last row or column: no box is spent on it.
        pixels = (n, 2 * ho, 2 * wo) if pool else (n, h, width)
        tile = choose_tile("first", x, pixels, c_out, c_in, pool=pool)
        ni, th, tw = tile.box
        counts = tile.counts(pixels)
        stored = (ni, th // 2, tw // 2) if pool else tile.box
        programs = min(prod(counts), TURNS * cores(x.device))
        first_fprop_kernel[(programs, triton.cdiv(c_out, tile.bc))](
            x, w.contiguous(), b, operand(y, tile, (*stored, tile.bc)), argmax,
            n, h, width, ho, wo, y.shape[3] // per16, c_out, counts[1], counts[2], prod(counts),
            C=c_in, NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, RELU=relu, POOL=pool,
            TMA=tile.arch >= 90, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y[..., :c_out].contiguous(), argmax


def reads_grad(grad: Tensor) -> bool:
    """Whether :func:`wgrad` can read ``grad`` (N, C_out, ...) as it is: rows of 16 bytes."""
    return grad.shape[1] % unit(grad) == 0


def wgrad(
    x: Tensor, grad: Tensor, y: Tensor | None, argmax: Tensor | None, w: Tensor, want_db: bool
) -> tuple[Tensor, Tensor | None]:
    """dw like w and db (C_out,) or None, through ReLU and pool, without dz in memory.

    x (N, H, W, C_in); grad (N, HO, WO, C_out padded to 16 bytes), the gradient of the layer's
    output; y: that output if there is a ReLU, else None; argmax: of its pool, else None.
    """
    n, h, width, c_in = x.shape
    ho, wo = grad.shape[1:3]
    c_out = w.shape[0]
    dw = torch.empty((c_out, c_in, 3, 3), dtype=w.dtype, device=w.device)
    db = torch.empty((c_out,), dtype=w.dtype, device=w.device) if want_db else None
    if grad.numel() == 0:
        return dw.zero_(), None if db is None else db.zero_()
    pool = argmax is not None
    tile = choose_tile("first_wgrad", x, (n, ho, wo), c_out, c_in, pool=pool)
    counts = tile.counts((n, ho, wo))
    blocks = triton.cdiv(c_out, tile.bc)
    each, programs = share(
        prod(counts),
        min(resident(tile, pool) * cores(x.device) // blocks, MAX_PARTIALS // (c_out * tile.bk)),
    )
    partial = workspace((programs, c_out, tile.bk), x, "wgrad")
    ni, th, tw = tile.box
    first_wgrad_kernel[(programs, blocks)](
        x, grad, y, argmax, partial,
        n, h, width, ho, wo, grad.shape[3] // unit(grad), c_out, counts[1], counts[2],
        prod(counts), each,
        C=c_in, NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    first_sum_kernel[(c_out,)](
        partial, dw, db, programs, c_out * tile.bk, C=c_in, BK=tile.bk, BP=128
    )
    return dw, db
