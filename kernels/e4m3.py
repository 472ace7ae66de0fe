"""The 3x3 convolution forward in float8 e4m3, for inference: products of 8 bits, sums in float32.

y[n,h,w,co] = q( pool?( relu?( scale[co] * sum over r,s,ci of x[n, h+r-1, w+s-1, ci] * w[co,ci,r,s]
                               + shift[co] ) ) )

The e4m3 numbers of x and w stand for themselves times a scale, one for a map, one for an output
channel of w. ``scale`` is the product of both divided by y's scale, ``shift`` the bias divided by
it, so that the epilogue is one multiply-add. q clamps to +-448, the largest e4m3, and rounds to the
nearest, ties to even; where y is no e4m3, its scale is 1 and q rounds alone. A NaN stays a NaN.

Boxes, places and the order of the sum are those of conv3x3.py. A step takes up to 128 bytes of
channels as there, which here are 128 channels.
"""

import triton
import triton.language as tl

from .conv3x3 import SIZES, place


@triton.jit(do_not_specialize=SIZES)
def conv3x3_e4m3_kernel(
    x_desc,  # e4m3 (N, H, W, 16 x QI channels); box (NI, TH, TW, BK)
    w_desc,  # e4m3 (9 * C_out, 16 x QI): row tap * C_out + co, tap = 3 r + s; box (BC, BK)
    scale_ptr,  # float32 (C_out,)
    shift_ptr,  # float32 (C_out,)
    y_desc,  # (N, HO, WO, C_out or more); box (NI, TH or TH/2, TW or TW/2, BC)
    QI,
    C_out,
    tiles_h,
    tiles_w,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    RELU: tl.constexpr,
    POOL: tl.constexpr,
):
    """One box of output pixels x BC output channels."""
    n0, h0, w0, c0 = place(tl.program_id(0), C_out, tiles_h, tiles_w, NI, TH, TW, BC)
    acc = _products(
        x_desc, w_desc, n0, h0, w0, c0, C_out, 9 * tl.cdiv(16 * QI, BK), NI, TH, TW, BC, BK
    )
    channel = c0 + tl.arange(0, BC)
    # Absent channels of y become zeros: the next layer reads them.
    scale = tl.load(scale_ptr + channel, mask=channel < C_out, other=0.0)
    shift = tl.load(shift_ptr + channel, mask=channel < C_out, other=0.0)
    acc = acc * scale[:, None] + shift[:, None]
    if POOL:  # before the ReLU, which then has a quarter of the work, with the same result
        acc = _pool2x2(acc.reshape(BC, NI, TH // 2, 2, TW // 2, 2))  # (BC, NI, TH/2, TW/2)
        h0 = h0 // 2
        w0 = w0 // 2
    else:
        acc = acc.reshape(BC, NI, TH, TW)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    y_desc.store([n0, h0, w0, c0], _rounded(acc, y_desc.dtype).permute(1, 2, 3, 0))


@triton.jit
def _products(
    x_desc, w_desc, n0, h0, w0, c0, C_out, steps, NI: tl.constexpr, TH: tl.constexpr,
    TW: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """The sum for one tile: float32 (BC, NI * TH * TW).

    Hopper's tensor cores add e4m3 products with about 14 bits, though what they add to is float32.
    So the nine taps of BK channels are summed there and then added to ``acc`` by ordinary float32
    additions: no sum of the short kind is longer than 9 BK products, whatever C_in. Adding after
    every product of tiles (``max_num_imprecise_acc=BK``) would leave the tensor cores idle at each
    step, waiting for the additions; after nine, eight steps of nine keep one product under way.
    """
    P: tl.constexpr = NI * TH * TW
    acc = tl.zeros((BC, P), dtype=tl.float32)
    taps = tl.zeros((BC, P), dtype=tl.float32)
    for i in range(0, steps):
        k0 = (i // 9) * BK
        tap = i % 9
        box = x_desc.load([n0, h0 + tap // 3 - 1, w0 + tap % 3 - 1, k0])  # (NI, TH, TW, BK)
        weights = w_desc.load([tap * C_out + c0, k0])  # (BC, BK)
        taps = tl.dot(weights, box.reshape(P, BK).T, taps)
        if tap == 8:
            acc += taps
            taps = tl.zeros((BC, P), dtype=tl.float32)
    return acc


@triton.jit(do_not_specialize=["rows", "C", "C_PAD"])
def quantize_e4m3_kernel(
    x_ptr,  # (rows, C) of float16, bfloat16 or float32
    scale_ptr,  # float32, one number
    y_ptr,  # e4m3 (rows, C_PAD)
    rows,
    C,
    C_PAD,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """y = x / scale, clamped and rounded, for BR rows x BC channels; zeros beyond C."""
    row = tl.cast(tl.program_id(0), tl.int64) * BR + tl.arange(0, BR)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    at = row[:, None]
    given = (at < rows) & (channel < C)[None, :]
    v = tl.load(x_ptr + at * C + channel[None, :], mask=given, other=0.0).to(tl.float32)
    v = v * tl.div_rn(1.0, tl.load(scale_ptr))
    stored = (at < rows) & (channel < C_PAD)[None, :]
    tl.store(y_ptr + at * C_PAD + channel[None, :], _rounded(v, y_ptr.dtype.element_ty), stored)


@triton.jit
def _rounded(v, DTYPE: tl.constexpr):
    """v float32 -> DTYPE; for e4m3 it is clamped first, as what is too large would become NaN."""
    if DTYPE == tl.float8e4nv:  # noqa: SIM300
        v = tl.maximum(v, -448.0, propagate_nan=tl.PropagateNan.ALL)
        v = tl.minimum(v, 448.0, propagate_nan=tl.PropagateNan.ALL)
    return v.to(DTYPE)


@triton.jit
def _pool2x2(v):
    """v (B, I, H, 2, W, 2) -> the windows' maxima (B, I, H, W); a NaN wins."""
    left, right = tl.split(v)  # (B, I, H, 2, W)
    v = tl.maximum(left, right, propagate_nan=tl.PropagateNan.ALL).permute(0, 1, 2, 4, 3)
    above, below = tl.split(v)
    return tl.maximum(above, below, propagate_nan=tl.PropagateNan.ALL)
