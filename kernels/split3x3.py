"""Triton kernels of the 3x3 convolution forward for small maps: the sum over channels is split.

At batch 1 a layer has fewer tiles than the GPU has multiprocessors (8 tiles of 128 x 128 for
512 channels at 14x14). So several programs share a tile: each leaves a part of its sum in a
workspace, and a second kernel adds the parts, in their order, and runs the epilogue. The workspace
is at most one tile a multiprocessor, which stays in the second-level cache.
"""

import triton
import triton.language as tl

from .conv3x3 import SIZES, bias_relu, map_descriptor, place, products, store_pooled


@triton.jit(do_not_specialize=[*SIZES, "tiles", "steps_per_split"])
def conv3x3_split_kernel(
    x,  # (N, H, W, 16 bytes x QI channels); box (NI, TH, TW, BK)
    w,  # (9 * C_out, 16 bytes x QI): row tap * C_out + co; box (BC, BK)
    partial_ptr,  # float32 (splits, tiles, BC, NI * TH * TW)
    N,
    H,
    W,
    QI,
    C_out,
    tiles_h,
    tiles_w,
    tiles,
    steps_per_split,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    MIRROR: tl.constexpr,
    PRECISION: tl.constexpr,
    TMA: tl.constexpr,
):
    """Steps (channel block and tap) of one split for one tile, see conv3x3_fprop_kernel."""
    if TMA:
        x_desc = x
        w_desc = w
    else:
        UNIT: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        x_desc = map_descriptor(x, N, H, W, QI * UNIT, NI, TH, TW, BK)
        w_desc = tl.make_tensor_descriptor(w, [9 * C_out, QI * UNIT], [QI * UNIT, 1], [BC, BK])
    C_in = QI * (128 // x_desc.dtype.primitive_bitwidth)
    tile = tl.program_id(0)
    split = tl.program_id(1)
    n0, h0, w0, c0 = place(tile, C_out, tiles_h, tiles_w, NI, TH, TW, BC)
    begin = split * steps_per_split
    end = tl.minimum(begin + steps_per_split, 9 * tl.cdiv(C_in, BK))
    acc = products(
        x_desc, w_desc, n0, h0, w0, c0, C_out, begin, end, NI, TH, TW, BC, BK, MIRROR, PRECISION
    )
    tl.store(partial_ptr + _offsets(split, tile, tiles, 0, BC, BC, NI * TH * TW), acc)


@triton.jit(do_not_specialize=[*SIZES, "tiles", "splits"])
def conv3x3_join_kernel(
    partial_ptr,  # float32 (splits, tiles, BC, NI * TH * TW)
    b_ptr,  # (C_out,) or None
    y,  # (N, HO, WO, 16 bytes x QO channels); box (NI, TH or TH/2, TW or TW/2, BJ)
    argmax_ptr,  # uint8 (N, HO, WO, ceil(C_out / 4)) or None
    N,
    HO,
    WO,
    QO,
    C_out,
    tiles_h,
    tiles_w,
    tiles,
    splits,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BJ: tl.constexpr,  # channels a program joins, a part of BC
    RELU: tl.constexpr,
    POOL: tl.constexpr,
    TMA: tl.constexpr,
):
    """Add the splits of BJ channels of one tile in their order; bias, ReLU, pool, argmax."""
    if TMA:
        y_desc = y
    else:
        UNIT: tl.constexpr = 128 // y.dtype.element_ty.primitive_bitwidth
        if POOL:
            y_desc = map_descriptor(y, N, HO, WO, QO * UNIT, NI, TH // 2, TW // 2, BJ)
        else:
            y_desc = map_descriptor(y, N, HO, WO, QO * UNIT, NI, TH, TW, BJ)
    P: tl.constexpr = NI * TH * TW
    tile = tl.program_id(0)
    part = tl.program_id(1) * BJ
    n0, h0, w0, c0 = place(tile, C_out, tiles_h, tiles_w, NI, TH, TW, BC)
    acc = tl.zeros((BJ, P), dtype=tl.float32)
    for split in range(splits):
        acc += tl.load(partial_ptr + _offsets(split, tile, tiles, part, BJ, BC, P))
    acc = bias_relu(acc, b_ptr, c0 + part, C_out, RELU, BJ)
    if POOL:
        store_pooled(
            acc, y_desc, argmax_ptr, n0, h0, w0, c0 + part, N, HO, WO, C_out, NI, TH, TW, BJ
        )
    else:
        full = acc.to(y_desc.dtype).reshape(BJ, NI, TH, TW)
        y_desc.store([n0, h0, w0, c0 + part], full.permute(1, 2, 3, 0))


@triton.jit
def _offsets(
    split, tile, tiles, first, ROWS: tl.constexpr, BC: tl.constexpr, P: tl.constexpr
):  # fmt: skip
    """Places (ROWS, P) in the workspace of rows ``first`` on of a tile's part."""
    row = (tl.cast(split, tl.int64) * tiles + tile) * BC + first + tl.arange(0, ROWS)
    return row[:, None] * P + tl.arange(0, P)[None, :]
