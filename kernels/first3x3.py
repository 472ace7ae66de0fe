"""Triton kernels of a 3x3 convolution with 1 to 3 input channels: the first layer of a network.

fprop   y[n,h,w,co]    = sum over ci,r,s  of x[n, h+r-1, w+s-1, ci] * w[co,ci,r,s]
wgrad   dw[co,ci,r,s]  = sum over n,h,w   of dz[n,h,w,co] * x[n, h+r-1, w+s-1, ci]
        db[co]         = sum over n,h,w   of dz[n,h,w,co]

All taps and channels, 27 products at most, are one step of K = 32. The order of K is that of the
weights in memory, k = 9 ci + 3 r + s, so that w is read as it is, and x is gathered with plain
loads: rows of 3 channels start at any address, where no descriptor can point.

A box has as many pixels as its program has threads, and the K values of a pixel are K vectors over
the pixels, joined: so one thread holds them all, whichever way Triton would lay out a matrix of
pointers (3.6 and 3.7 differ), and offsets along K are constants in the load instructions.
"""

import triton
import triton.language as tl

from .conv3x3 import SIZES, bias_relu, map_descriptor, place, store_pooled

_SIZES = [*SIZES, "tiles", "tiles_per_program", "partials", "columns"]


@triton.jit(do_not_specialize=_SIZES)
def first_fprop_kernel(
    x_ptr,  # (N, H, W, C)
    w_ptr,  # (C_out, 9 * C)
    b_ptr,  # (C_out,) or None
    y,  # (N, HO, WO, 16 bytes x QO channels); box (NI, TH or TH/2, TW or TW/2, BC)
    argmax_ptr,  # uint8 (N, HO, WO, ceil(C_out / 4)) or None
    N,
    H,
    W,
    HO,
    WO,
    QO,
    C_out,
    tiles_h,
    tiles_w,
    tiles,  # boxes in all: images x rows x columns
    C: tl.constexpr,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    RELU: tl.constexpr,
    POOL: tl.constexpr,
    TMA: tl.constexpr,  # y is a tensor descriptor made by the host, else a pointer
):
    """Every num_programs-th box of output pixels x BC output channels; the weights stay."""
    if TMA:
        y_desc = y
    else:
        UNIT: tl.constexpr = 128 // y.dtype.element_ty.primitive_bitwidth
        if POOL:
            y_desc = map_descriptor(y, N, HO, WO, QO * UNIT, NI, TH // 2, TW // 2, BC)
        else:
            y_desc = map_descriptor(y, N, HO, WO, QO * UNIT, NI, TH, TW, BC)
    c0 = tl.program_id(1) * BC
    co = c0 + tl.arange(0, BC)
    k = tl.arange(0, BK)
    present = (co < C_out)[:, None] & (k < 9 * C)[None, :]
    weights = tl.load(w_ptr + co[:, None] * (9 * C) + k[None, :], mask=present, other=0.0)
    pixel = tl.arange(0, NI * TH * TW)
    for i in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n0, h0, w0, _ = place(i, BC, tiles_h, tiles_w, NI, TH, TW, BC)
        n = n0 + pixel // (TH * TW)
        h = h0 + pixel // TW % TH
        v = w0 + pixel % TW
        inside = (n < N) & (h < H) & (v < W)
        inputs = gather(x_ptr, n, h, v, inside, H, W, C, BK, 0.0)  # (P, BK)
        acc = tl.dot(weights, inputs.T, input_precision="ieee")
        acc = bias_relu(acc, b_ptr, c0, C_out, RELU, BC)
        if POOL:
            store_pooled(acc, y_desc, argmax_ptr, n0, h0, w0, c0, N, HO, WO, C_out, NI, TH, TW, BC)
        else:
            full = acc.to(y_desc.dtype).reshape(BC, NI, TH, TW)
            y_desc.store([n0, h0, w0, c0], full.permute(1, 2, 3, 0))


@triton.jit
def gather(
    x_ptr, n, h, w, inside, H, W, C: tl.constexpr, BK: tl.constexpr, LAST: tl.constexpr
):  # fmt: skip
    """The 9 C inputs of the pixels (n, h, w), each (P,), as (P, BK).

    Zero for what lies outside of the map, and for all of a pixel that is not ``inside``. The last
    of the BK is ``LAST``, the rest of them zero.
    """
    at = x_ptr + ((n.to(tl.int64) * H + h) * W + w) * C
    inputs = _joined(at, h, w, inside, H, W, C, BK, 0, 1).reshape(n.shape[0], BK)
    # Also keeps Triton 3.6 and 3.7 from moving the reshape into shared memory, which they fail at.
    return tl.where((tl.arange(0, BK) == BK - 1)[None, :], LAST, inputs)


@triton.jit
def _joined(
    at, h, w, inside, H, W, C: tl.constexpr, BK: tl.constexpr, K: tl.constexpr, STEP: tl.constexpr
):  # fmt: skip
    """Inputs K, K + STEP, ... < BK of pixels whose own are at ``at``: (P, 2, ..., 2)."""
    if STEP < BK:
        return tl.join(
            _joined(at, h, w, inside, H, W, C, BK, K, 2 * STEP),
            _joined(at, h, w, inside, H, W, C, BK, K + STEP, 2 * STEP),
        )
    elif K < 9 * C:
        dh: tl.constexpr = K // 3 % 3 - 1
        dw: tl.constexpr = K % 3 - 1
        mask = inside & (h + dh >= 0) & (h + dh < H) & (w + dw >= 0) & (w + dw < W)
        return tl.load(at + dh * (W * C) + (dw * C + K // 9), mask=mask, other=0.0)
    else:
        return tl.zeros(h.shape, at.dtype.element_ty)


@triton.jit(do_not_specialize=_SIZES)
def first_wgrad_kernel(
    x_ptr,  # (N, H, W, C)
    grad_ptr,  # (N, HO, WO, 16 bytes x QO channels)
    y_ptr,  # as grad, the output of a ReLU, or None: no ReLU
    argmax_ptr,  # uint8 (N, HO, WO, ceil(C_out / 4)), or None: no pool
    partial_ptr,  # float32 (programs, C_out, BK)
    N,
    H,
    W,
    HO,
    WO,
    QO,
    C_out,
    tiles_h,
    tiles_w,
    tiles,  # boxes in all: images x rows x columns
    tiles_per_program,
    C: tl.constexpr,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
):
    """Partial dw and db of BC output channels over some boxes of grad's map; dz is never stored.

    Behind a pool a box is one of windows, and each of a window's four corners is a product of its
    own: dz there is the gradient of those windows that it won. The last of the BK columns is the
    sum with an input of one, which is db.
    """
    P: tl.constexpr = NI * TH * TW
    C_row = QO * (128 // grad_ptr.dtype.element_ty.primitive_bitwidth)
    quads = tl.cdiv(C_out, 4)
    c0 = tl.program_id(1) * BC
    co = c0 + tl.arange(0, BC)
    quad = c0 // 4 + tl.arange(0, BC // 4)
    k = tl.arange(0, BK)
    p = tl.arange(0, P)
    acc = tl.zeros((BC, BK), dtype=tl.float32)
    begin = tl.program_id(0) * tiles_per_program
    for i in range(begin, tl.minimum(begin + tiles_per_program, tiles)):
        n0, h0, w0, _ = place(i, BC, tiles_h, tiles_w, NI, TH, TW, BC)
        n = n0 + p // (TH * TW)
        h = h0 + p // TW % TH
        v = w0 + p % TW
        present = (n < N) & (h < HO) & (v < WO)
        # The box's corner is a scalar of 64 bits; within a box of one image 32 bits will do.
        site = (tl.cast(n0, tl.int64) * HO + h0) * WO + w0
        step = p // TW % TH * WO + p % TW  # [P]
        if NI > 1:
            step += (p // (TH * TW)).to(tl.int64) * HO * WO
        at = step[:, None] * C_row + co[None, :]  # [P, BC]
        inside = present[:, None] & (co < C_row)[None, :]
        dz = tl.load(grad_ptr + site * C_row + at, mask=inside, other=0.0)
        if y_ptr is not None:
            # Not "where y > 0": a NaN in y passes the gradient on.
            dz = tl.where(tl.load(y_ptr + site * C_row + at, mask=inside, other=0.0) <= 0, 0.0, dz)
        if argmax_ptr is None:
            inputs = gather(x_ptr, n, h, v, present, H, W, C, BK, 1.0)
            acc = tl.dot(dz.T, inputs, acc, input_precision="ieee")
        else:
            kept = present[:, None] & (quad < quads)[None, :]
            packed = tl.load(
                argmax_ptr + site * quads + (step[:, None] * quads + quad[None, :]),
                mask=kept, other=0,
            )  # [P, BC / 4]  # fmt: skip
            shift = (2 * tl.arange(0, 4)).to(tl.uint8)[None, None, :]
            for corner in range(4):
                inputs = gather(
                    x_ptr, n, 2 * h + corner // 2, 2 * v + corner % 2, present, H, W, C, BK, 1.0
                )  # fmt: skip
                # Codes stay packed over the loop: one register for four channels, not four (with
                # an earlier gather 158 registers in all, and 255).
                other = packed ^ tl.cast(corner * 0x55, tl.uint8)
                won = (((other[:, :, None] >> shift) & 3) == 0).reshape(P, BC)
                acc = tl.dot(tl.where(won, dz, 0.0).T, inputs, acc, input_precision="ieee")
    row = tl.program_id(0) * C_out + co
    at = tl.cast(row, tl.int64)[:, None] * BK + k[None, :]
    tl.store(partial_ptr + at, acc, mask=(co < C_out)[:, None] & (k < BK)[None, :])


@triton.jit(do_not_specialize=_SIZES)
def first_sum_kernel(
    partial_ptr,  # float32 (partials, C_out, BK), columns = C_out * BK
    dw_ptr,  # (C_out, 9 * C)
    db_ptr,  # (C_out,), or None
    partials,
    columns,
    C: tl.constexpr,
    BK: tl.constexpr,
    BP: tl.constexpr,
):
    """dw and db: the partial sums of BK columns (an output channel), added in a fixed order."""
    k = tl.arange(0, BK)
    co = tl.program_id(0)
    total = tl.zeros((BP, BK), dtype=tl.float32)
    for start in range(0, partials, BP):
        part = start + tl.arange(0, BP)
        at = tl.cast(part, tl.int64)[:, None] * columns + (co * BK + k)[None, :]
        total += tl.load(partial_ptr + at, mask=(part < partials)[:, None], other=0.0)
    result = tl.sum(total, axis=0)
    value = result.to(dw_ptr.dtype.element_ty)
    tl.store(dw_ptr + co * (9 * C) + k, value, mask=k < 9 * C)
    if db_ptr is not None:
        # Of all addresses, the same for each k, only that of the last column is written.
        tl.store(db_ptr + co + 0 * k, value, mask=k == BK - 1)
