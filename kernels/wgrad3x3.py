"""Triton kernels of the 3x3 convolution's weight gradient: implicit GEMMs summed over pixels.

wgrad   dw[co,ci,r,s]  = sum over n,h,w  of dz[n,h,w,co] * x[n, h+r-1, w+s-1, ci]

Boxes of pixels are read as in conv3x3.py; the sum over them is split among programs, and the parts
are added in order.
"""

import triton
import triton.language as tl

from .conv3x3 import SIZES, map_descriptor


@triton.jit(do_not_specialize=[*SIZES, "tiles", "tiles_per_split"])
def conv3x3_wgrad_kernel(
    x,  # (N, H, W, 16 bytes x QI channels); box (NI, TH, TW, BK)
    dz,  # (N, H, W, 16 bytes x QO channels); box (NI, TH, TW, BC)
    partial_ptr,  # float32 (splits, 9, C_out, C_in)
    N,
    H,
    W,
    QI,
    QO,
    C_in,
    C_out,
    tiles_h,
    tiles_w,
    tiles,  # boxes in all: images x rows x columns
    tiles_per_split,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    TAPS: tl.constexpr,  # of a program: 1, or the 3 of a row, which share dz
    PRECISION: tl.constexpr,  # of float32 products
    TMA: tl.constexpr,
):
    """The partial dw of some taps, BC output x BK input channels, over one split of the boxes."""
    P: tl.constexpr = NI * TH * TW
    if TMA:
        x_desc = x
        dz_desc = dz
    else:
        UNIT: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        x_desc = map_descriptor(x, N, H, W, QI * UNIT, NI, TH, TW, BK)
        dz_desc = map_descriptor(dz, N, H, W, QO * UNIT, NI, TH, TW, BC)
    # Taps run fastest: programs side by side read the same boxes.
    groups: tl.constexpr = 9 // TAPS
    tap = (tl.program_id(0) % groups) * TAPS
    block = tl.program_id(0) // groups
    blocks_k = tl.cdiv(C_in, BK)
    k0 = (block % blocks_k) * BK
    c0 = (block // blocks_k) * BC
    split = tl.program_id(1)
    dh = tap // 3 - 1
    dw = tap % 3 - 1

    acc = tl.zeros((BC, BK), dtype=tl.float32)
    second = acc
    third = acc
    begin = split * tiles_per_split
    for i in range(begin, tl.minimum(begin + tiles_per_split, tiles)):
        w0 = (i % tiles_w) * TW
        h0 = (i // tiles_w) % tiles_h * TH
        n0 = i // (tiles_w * tiles_h) * NI
        gradient = dz_desc.load([n0, h0, w0, c0]).reshape(P, BC).T  # (BC, P)
        box = x_desc.load([n0, h0 + dh, w0 + dw, k0])  # (NI, TH, TW, BK)
        acc = tl.dot(gradient, box.reshape(P, BK), acc, input_precision=PRECISION)
        if TAPS == 3:
            box = x_desc.load([n0, h0 + dh, w0, k0])
            second = tl.dot(gradient, box.reshape(P, BK), second, input_precision=PRECISION)
            box = x_desc.load([n0, h0 + dh, w0 + 1, k0])
            third = tl.dot(gradient, box.reshape(P, BK), third, input_precision=PRECISION)

    co = c0 + tl.arange(0, BC)
    ci = k0 + tl.arange(0, BK)
    inside = (co < C_out)[:, None] & (ci < C_in)[None, :]
    pairs = tl.cast(C_out, tl.int64) * C_in
    # One 64-bit address and narrow offsets: wide ones for every sum would take all registers.
    to = partial_ptr + (tl.cast(split, tl.int64) * 9 + tap) * pairs
    offsets = co[:, None] * C_in + ci[None, :]
    tl.store(to + offsets, acc, mask=inside)
    if TAPS == 3:
        tl.store(to + pairs + offsets, second, mask=inside)
        tl.store(to + 2 * pairs + offsets, third, mask=inside)


@triton.jit(do_not_specialize=["pairs", "splits"])
def conv3x3_wgrad_sum_kernel(
    partial_ptr,  # float32 (splits, 9, pairs), pair = co * C_in + ci
    dw_ptr,  # (pairs, 9), which is (C_out, C_in, 3, 3)
    pairs,
    splits,
    B: tl.constexpr,
):
    """Sum the splits in their order, so that the result does not depend on who finished first."""
    pair = tl.program_id(0) * B + tl.arange(0, B)
    tap = tl.program_id(1)
    inside = pair < pairs
    acc = tl.zeros((B,), dtype=tl.float32)
    for split in range(splits):
        offset = (tl.cast(split, tl.int64) * 9 + tap) * pairs + pair
        acc += tl.load(partial_ptr + offset, mask=inside, other=0.0)
    tl.store(dw_ptr + pair * 9 + tap, acc.to(dw_ptr.dtype.element_ty), mask=inside)
