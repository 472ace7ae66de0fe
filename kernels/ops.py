"""Launches of the Triton kernels: convolution and max-pool, forward and backward.

Tensors are (N, C, H, W) in channels_last memory, weights (C_out, C_in, 3, 3) contiguous, all of one
dtype (float16, bfloat16, float32) and device; callers check that. Sums run in float32, and float32
products are exact IEEE products on the ordinary cores ("ieee"), never TF32, whatever torch's own
``allow_tf32`` says: slower than TF32 tensor cores, and right to float32.

Every result is bit-identical from run to run on one machine: no atomics, all sums in a fixed order.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from . import _interpreter, tiles
from .conv3x3 import conv3x3_fprop_kernel, conv3x3_wgrad_kernel, conv3x3_wgrad_sum_kernel
from .pool2x2 import (
    column_sum_kernel,
    maxpool2x2_kernel,
    pool_backward_kernel,
    relu_backward_kernel,
)  # fmt: skip

# Triton decides at import whether its kernels are compiled or interpreted (TRITON_INTERPRET=1).
INTERPRETED = not isinstance(conv3x3_fprop_kernel, triton.JITFunction)
if INTERPRETED:
    _interpreter.repair()

_BLOCK = 1024  # elements a program of the element-wise kernels holds at a time
_MAX_PARTIALS = 1 << 26  # float32 elements of wgrad's workspace: 256 MB


def conv3x3(
    x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
) -> tuple[Tensor, Tensor | None]:
    """y = pool2x2?(relu?(conv(x, w, stride 1, padding 1) + b)), and the packed argmax or None.

    x (N, C_in, H, W), w (C_out, C_in, 3, 3), b (C_out,) or None; y (N, C_out, H, W) or
    (N, C_out, H // 2, W // 2); argmax uint8 (N, H // 2, W // 2, ceil(C_out / 4)).
    """
    with _on(x):
        y, argmax = _fprop(
            _aligned(x.permute(0, 2, 3, 1)), _tap_rows(w, False), w.shape[0], b, relu, pool,
            save_argmax, False,
        )  # fmt: skip
    return y.permute(0, 3, 1, 2), argmax


def conv3x3_backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    y: Tensor | None,
    argmax: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients (dx, dw, db) of :func:`conv3x3`; None where ``needs`` is False.

    y: its output if it had a ReLU, else None; argmax: its argmax if it had a pool, else None.
    Without ``needs[1]`` only the shape of x counts.
    """
    with _on(grad):
        dz, db = _epilogue_backward(grad, y, argmax, x.shape, needs[0] or needs[1], needs[2])
        dx = dw = None
        if needs[0]:
            dx, _ = _fprop(
                dz, _tap_rows(w, True), w.shape[1], None, False, False, False, True
            )  # fmt: skip
            dx = dx.permute(0, 3, 1, 2)
        if needs[1]:
            dw = _wgrad(_aligned(x.permute(0, 2, 3, 1)), dz, w)
    return dx, dw, db


def maxpool2x2(x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
    """The maxima (N, C, H // 2, W // 2) of the 2x2 windows of x, and the packed argmax or None."""
    n, c, h, w = x.shape
    y = torch.empty((n, h // 2, w // 2, c), dtype=x.dtype, device=x.device)
    argmax = _empty_argmax(y) if save_argmax else None
    if y.numel():
        bp, bc = _element_block(c)
        grid = (triton.cdiv(y.numel() // c, bp), triton.cdiv(c, bc))
        with _on(x):
            maxpool2x2_kernel[grid](x, y, argmax, n, h, w, c, BP=bp, BC=bc)
    return y.permute(0, 3, 1, 2), argmax


def maxpool2x2_backward(grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """dx (N, C, height, width): ``grad`` at each window's winner, zero elsewhere."""
    n, c = grad.shape[:2]
    dx = torch.empty((n, height, width, c), dtype=grad.dtype, device=grad.device)
    if dx.numel():
        with _on(grad):
            _scatter(grad, None, argmax, dx, False)
    return dx.permute(0, 3, 1, 2)


def _fprop(
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
    unit = _unit(x)
    y = torch.empty((n, ho, wo, -(-c_out // unit) * unit), dtype=x.dtype, device=x.device)
    argmax = _empty_argmax(y[..., :c_out]) if pool and save_argmax else None
    if y.numel():
        # A pool drops an odd last row or column: no box is spent on it.
        pixels = (n, 2 * ho, 2 * wo) if pool else (n, h, w)
        tile = _tile("fprop", x, pixels, c_out, c_in)
        ni, th, tw = tile.box
        counts = tile.counts(pixels)
        stored = (ni, th // 2, tw // 2) if pool else tile.box
        conv3x3_fprop_kernel[(prod(counts) * triton.cdiv(c_out, tile.bc),)](
            _operand(x, tile, (*tile.box, tile.bk)),
            _operand(rows, tile, (tile.bc, tile.bk)),
            b,
            _operand(y, tile, (*stored, tile.bc)),
            argmax,
            n, h, w, ho, wo, c_in // unit, y.shape[3] // unit, c_out, counts[1], counts[2],
            NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, RELU=relu, POOL=pool, MIRROR=mirror,
            TMA=tile.arch >= 90, num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return y[..., :c_out].contiguous(), argmax


def _wgrad(x: Tensor, dz: Tensor, w: Tensor) -> Tensor:
    """x (N, H, W, padded C_in), dz (N, H, W, padded C_out) -> dw like w."""
    n, h, width, _ = x.shape
    c_out, c_in = w.shape[:2]
    dw = torch.empty((c_out, c_in, 3, 3), dtype=w.dtype, device=w.device)
    if x.numel() == 0:
        return dw.zero_()
    tile = _tile("wgrad", x, (n, h, width), c_out, c_in)
    ni, th, tw = tile.box
    counts = tile.counts((n, h, width))
    programs = 9 * triton.cdiv(c_out, tile.bc) * triton.cdiv(c_in, tile.bk)
    per_split, splits = _share(
        prod(counts), min(2 * _cores(x.device) // programs, _MAX_PARTIALS // (9 * c_out * c_in))
    )
    partial = torch.empty((splits, 9, c_out, c_in), dtype=torch.float32, device=x.device)
    conv3x3_wgrad_kernel[(programs, splits)](
        _operand(x, tile, (*tile.box, tile.bk)),
        _operand(dz, tile, (*tile.box, tile.bc)),
        partial,
        n, h, width, x.shape[3] // _unit(x), dz.shape[3] // _unit(x), c_in, c_out,
        counts[1], counts[2], prod(counts), per_split,
        NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, TMA=tile.arch >= 90,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    pairs, block = c_out * c_in, 1024
    conv3x3_wgrad_sum_kernel[(triton.cdiv(pairs, block), 9)](partial, dw, pairs, splits, B=block)
    return dw


def _epilogue_backward(
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
    c_pad = -(-c // _unit(grad)) * _unit(grad)
    size = (n, h, w, c_pad)
    if grad.numel() == 0:
        db = torch.zeros(c, dtype=grad.dtype, device=grad.device) if want_db else None
        return torch.zeros(size, dtype=grad.dtype, device=grad.device), db
    if argmax is not None:
        dz = torch.empty(size, dtype=grad.dtype, device=grad.device)
        return dz, _scatter(grad, y, argmax, dz, want_db)
    as_is = y is None or not want_dz
    dz = None if as_is else torch.empty(size, dtype=grad.dtype, device=grad.device)
    db = _mask(grad, y, dz, want_db) if want_db or not as_is else None
    if want_dz and y is None:
        dz = _aligned(grad.permute(0, 2, 3, 1))
    return dz, db


def _scatter(
    grad: Tensor, y: Tensor | None, argmax: Tensor, dz: Tensor, want_db: bool
) -> Tensor | None:
    """Fill dz (N, H, W, C or more) from the pooled ``grad``; the channel sums if wanted."""
    n, h, w, c_pad = dz.shape
    c = grad.shape[1]
    bp, bc = _element_block(c_pad)
    rows, programs = _row_share(n * ((h + 1) // 2) * ((w + 1) // 2), bp, grad.device)
    partial = _empty_partial(programs, grad) if want_db else None
    pool_backward_kernel[(programs, triton.cdiv(c_pad, bc))](
        grad, y, argmax, dz, partial, n, h, w, c, c_pad, rows, BP=bp, BC=bc
    )
    return None if partial is None else _column_sum(partial, grad.dtype)


def _mask(grad: Tensor, y: Tensor | None, dz: Tensor | None, want_db: bool) -> Tensor | None:
    """Fill dz (N, H, W, C or more), unless None, with the masked grad; channel sums if wanted."""
    n, c, h, w = grad.shape
    c_pad = c if dz is None else dz.shape[3]
    bp, bc = _element_block(c_pad)
    rows, programs = _row_share(n * h * w, bp, grad.device)
    partial = _empty_partial(programs, grad) if want_db else None
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


def _tap_rows(w: Tensor, transposed: bool) -> Tensor:
    """w (C_out, C_in, 3, 3) -> (9 * C_out, padded C_in), or transposed (9 * C_in, padded C_out)."""
    rows = w.permute(2, 3, 1, 0) if transposed else w.permute(2, 3, 0, 1)
    return _aligned(rows.reshape(9 * rows.shape[2], rows.shape[3]).contiguous())


def _aligned(t: Tensor) -> Tensor:
    """Contiguous ``t`` with its last axis padded with zeros to 16 bytes and its start aligned."""
    short = -t.shape[-1] % _unit(t)
    if short:
        return F.pad(t, (0, short))
    return t.clone() if t.data_ptr() % 16 else t


def _operand(t: Tensor, tile: tiles.Tile, box: tuple[int, ...]) -> Any:
    """What a kernel takes for ``t``: a TMA descriptor made here, or the tensor for its pointer."""
    if tile.arch < 90:
        return t
    return TensorDescriptor(t, list(t.shape), list(t.stride()), list(box))


def _tile(
    kernel: str, x: Tensor, pixels: tuple[int, int, int], c_out: int, c_in: int
) -> tiles.Tile:
    return tiles.choose(kernel, _arch(x.device), 8 * x.element_size(), pixels, c_out, c_in)


@lru_cache(maxsize=16)
def _arch(device: torch.device) -> int:
    """The generation whose entries serve the device; sm_120 has only the shared memory of sm_86."""
    if device.type != "cuda":
        return 90
    return 90 if torch.cuda.get_device_capability(device)[0] in (9, 10, 11) else 80


@lru_cache(maxsize=16)
def _cores(device: torch.device) -> int:
    if device.type != "cuda":
        return 16  # the interpreter has none; a few splits show that they add up
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _share(items: int, parts: int) -> tuple[int, int]:
    """Divide ``items`` among about ``parts``: (items each, parts), no part empty."""
    each = -(-items // max(1, min(parts, items)))
    return each, -(-items // each)


def _row_share(rows: int, bp: int, device: torch.device) -> tuple[int, int]:
    """Rows a program serves (a multiple of ``bp``) and the number of programs."""
    blocks, programs = _share(triton.cdiv(rows, bp), 4 * _cores(device))
    return blocks * bp, programs


def _element_block(c: int) -> tuple[int, int]:
    """(rows, channels) of a block of the element-wise kernels for ``c`` channels."""
    bc = min(64, max(4, triton.next_power_of_2(c)))
    return _BLOCK // bc, bc


def _unit(t: Tensor) -> int:
    """Elements in 16 bytes."""
    return 16 // t.element_size()


def _empty_argmax(y: Tensor) -> Tensor:
    """For y (N, HO, WO, C)."""
    n, h, w, c = y.shape
    return torch.empty((n, h, w, -(-c // 4)), dtype=torch.uint8, device=y.device)


def _empty_partial(programs: int, grad: Tensor) -> Tensor:
    return torch.empty((programs, grad.shape[1]), dtype=torch.float32, device=grad.device)


def _on(t: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device and stream: make the tensor's device current."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()
