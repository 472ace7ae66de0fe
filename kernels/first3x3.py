"""Triton kernels of a 3x3 convolution with 1 to 3 input channels: the first layer of a network.

fprop   y[n,h,w,co]    = sum over ci,r,s  of x[n, h+r-1, w+s-1, ci] * w[co,ci,r,s]
wgrad   dw[co,ci,r,s]  = sum over n,h,w   of dz[n,h,w,co] * x[n, h+r-1, w+s-1, ci]
        db[co]         = sum over n,h,w   of dz[n,h,w,co]

All taps and channels, 27 products at most, are one step of K = 32. The order of K is that of the
weights in memory, k = 9 ci + 3 r + s, so that w is read as it is, and x is gathered with plain
loads: rows of 3 channels start at any address, where no descriptor can point.

A box has as many pixels as its program has threads: a pixel's K values then belong to one thread,
and what depends on k is a constant of the machine code. Offsets stand in the load instructions, and
k >= 9 C costs nothing but its zeros.
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
        inputs = gather(x_ptr, n, h, v, inside, H, W, C, BK)  # (BK, P)
        acc = tl.dot(weights, inputs, input_precision="ieee")
        acc = bias_relu(acc, b_ptr, c0, C_out, RELU, BC)
        if POOL:
            store_pooled(acc, y_desc, argmax_ptr, n0, h0, w0, c0, N, HO, WO, C_out, NI, TH, TW, BC)
        else:
            full = acc.to(y_desc.dtype).reshape(BC, NI, TH, TW)
            y_desc.store([n0, h0, w0, c0], full.permute(1, 2, 3, 0))


@triton.jit
def gather(x_ptr, n, h, w, inside, H, W, C: tl.constexpr, BK: tl.constexpr):
    """The 9 C inputs of the pixels (n, h, w), each (P,), as (BK, P).

    Zero for what lies outside of the map, and for all of a pixel that is not ``inside``.
    """
    k = tl.arange(0, BK)[:, None]
    dh = k // 3 % 3 - 1
    dw = k % 3 - 1
    row = W * C
    # In this order the sums over k are three rows and constants.
    at = x_ptr + ((n.to(tl.int64) * H + h) * row + w * C)[None, :]
    at = at + dh * row
    at = at + (dw * C + k // 9)
    # Conditions of the row and of the column, so that 27 loads have nine different ones.
    middle = inside[None, :]
    above = (inside & (h > 0))[None, :]
    below = (inside & (h + 1 < H))[None, :]
    fits_h = tl.where(dh < 0, above, tl.where(dh > 0, below, middle))
    left = (w > 0)[None, :]
    right = (w + 1 < W)[None, :]
    fits_w = tl.where(dw < 0, left, tl.where(dw > 0, right, True))
    mask = fits_h & fits_w & (k < 9 * C)
    return tl.load(at, mask=mask, other=0.0)


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
        site = (n.to(tl.int64) * HO + h) * WO + v  # [P]
        at = site[:, None] * C_row + co[None, :]  # [P, BC]
        inside = present[:, None] & (co < C_row)[None, :]
        dz = tl.load(grad_ptr + at, mask=inside, other=0.0)
        if y_ptr is not None:
            # Not "where y > 0": a NaN in y passes the gradient on.
            dz = tl.where(tl.load(y_ptr + at, mask=inside, other=0.0) <= 0, 0.0, dz)
        if argmax_ptr is None:
            inputs = gather(x_ptr, n, h, v, present, H, W, C, BK)
            inputs = tl.where((k == BK - 1)[:, None], 1.0, inputs)
            acc = tl.dot(dz.T, inputs.T, acc, input_precision="ieee")
        else:
            kept = present[:, None] & (quad < quads)[None, :]
            packed = tl.load(
                argmax_ptr + site[:, None] * quads + quad[None, :], mask=kept, other=0
            )  # [P, BC / 4]
            shift = (2 * tl.arange(0, 4)).to(tl.uint8)[None, None, :]
            for corner in range(4):
                inputs = gather(
                    x_ptr, n, 2 * h + corner // 2, 2 * v + corner % 2, present, H, W, C, BK
                )  # fmt: skip
                inputs = tl.where((k == BK - 1)[:, None], 1.0, inputs)
                # All four codes of a byte at once: the loop then keeps one register for four
                # channels, where unpacked codes take 255 registers in all, and these 158.
                other = packed ^ tl.cast(corner * 0x55, tl.uint8)
                won = (((other[:, :, None] >> shift) & 3) == 0).reshape(P, BC)
                acc = tl.dot(tl.where(won, dz, 0.0).T, inputs.T, acc, input_precision="ieee")
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
