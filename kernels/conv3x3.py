"""Triton kernels of the 3x3 convolution: implicit GEMMs over NHWC maps, tap by tap.

fprop   y[n,h,w,co]    = sum over r,s,ci of x[n, h+r-1, w+s-1, ci] * w[co,ci,r,s]
dgrad   dx[n,h,w,ci]   = sum over r,s,co of dz[n, h-r+1, w-s+1, co] * w[co,ci,r,s]

A tile of pixels is a box of NI images x TH rows x TW columns, read by one 4-D tensor descriptor
(TMA on Hopper and later, plain asynchronous copies on Ampere). A box may stick out of the map on
every side: what lies outside reads as zero, which is the padding of the convolution, and is
dropped on a store. So part tiles need no code of their own.

The weights stand on the M side of the product and the pixels on the N side: only in that form do
both operands go from shared memory to Hopper's tensor cores with no detour through registers.
"""

import triton
import triton.language as tl

from .pool2x2 import winner

# Sizes are not specialised: one compiled kernel serves every shape.
SIZES = ["N", "H", "W", "HO", "WO", "QI", "QO", "C_in", "C_out", "tiles_h", "tiles_w"]


@triton.jit(do_not_specialize=[*SIZES, "tiles"])
def conv3x3_fprop_kernel(
    x,  # (N, H, W, 16 bytes x QI channels); box (NI, TH, TW, BK)
    w,  # (9 * C_out, 16 bytes x QI): row tap * C_out + co, tap = 3 r + s; box (BC, BK)
    b_ptr,  # (C_out,) or None
    y,  # (N, HO, WO, 16 bytes x QO channels); box (NI, TH or TH/2, TW or TW/2, BC)
    argmax_ptr,  # uint8 (N, HO, WO, ceil(C_out / 4)) or None
    N,
    H,
    W,
    HO,
    WO,
    QI,
    QO,
    C_out,
    tiles_h,
    tiles_w,
    tiles,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    RELU: tl.constexpr,
    POOL: tl.constexpr,
    MIRROR: tl.constexpr,  # taps point the other way: dgrad
    PRECISION: tl.constexpr,  # of float32 products: "ieee", "tf32x3" or "tf32"
    PERSISTENT: tl.constexpr,  # a program takes every so manieth tile instead of one
    TMA: tl.constexpr,  # x, w and y are tensor descriptors made by the host, else pointers
):
    """Boxes of output pixels x BC output channels; (HO, WO) is the size of y's map.

    Channel counts come in units of 16 bytes, so that the compiler knows rows to be aligned.
    """
    if TMA:
        x_desc = x
        w_desc = w
        y_desc = y
    else:
        UNIT: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        x_desc = map_descriptor(x, N, H, W, QI * UNIT, NI, TH, TW, BK)
        w_desc = tl.make_tensor_descriptor(w, [9 * C_out, QI * UNIT], [QI * UNIT, 1], [BC, BK])
        if POOL:
            y_desc = map_descriptor(y, N, HO, WO, QO * UNIT, NI, TH // 2, TW // 2, BC)
        else:
            y_desc = map_descriptor(y, N, HO, WO, QO * UNIT, NI, TH, TW, BC)
    C_in = QI * (128 // x_desc.dtype.primitive_bitwidth)
    if PERSISTENT:
        # Flattened, the loads of the next tile are under way while a tile is finished.
        for i in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            fprop_tile(
                x_desc, w_desc, b_ptr, y_desc, argmax_ptr, i, N, HO, WO, C_in, C_out,
                tiles_h, tiles_w, NI, TH, TW, BC, BK, RELU, POOL, MIRROR, PRECISION,
            )  # fmt: skip
    else:
        fprop_tile(
            x_desc, w_desc, b_ptr, y_desc, argmax_ptr, tl.program_id(0), N, HO, WO, C_in, C_out,
            tiles_h, tiles_w, NI, TH, TW, BC, BK, RELU, POOL, MIRROR, PRECISION,
        )  # fmt: skip


@triton.jit
def fprop_tile(
    x_desc, w_desc, b_ptr, y_desc, argmax_ptr, i, N, HO, WO, C_in, C_out, tiles_h, tiles_w,
    NI: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
    RELU: tl.constexpr, POOL: tl.constexpr, MIRROR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tile ``i`` from its products to y."""
    n0, h0, w0, c0 = place(i, C_out, tiles_h, tiles_w, NI, TH, TW, BC)
    acc = products(
        x_desc, w_desc, n0, h0, w0, c0, C_out, 0, 9 * tl.cdiv(C_in, BK),
        NI, TH, TW, BC, BK, MIRROR, PRECISION,
    )  # fmt: skip
    acc = bias_relu(acc, b_ptr, c0, C_out, RELU, BC)
    if POOL:
        store_pooled(acc, y_desc, argmax_ptr, n0, h0, w0, c0, N, HO, WO, C_out, NI, TH, TW, BC)
    else:
        full = acc.to(y_desc.dtype).reshape(BC, NI, TH, TW)
        y_desc.store([n0, h0, w0, c0], full.permute(1, 2, 3, 0))


@triton.jit
def place(
    i, C_out, tiles_h, tiles_w, NI: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """The first image, row, column and channel of tile ``i``.

    Channel tiles run fastest: the programs that share a box of x run side by side.
    """
    tiles_c = tl.cdiv(C_out, BC)
    c0 = (i % tiles_c) * BC
    tile = i // tiles_c
    w0 = (tile % tiles_w) * TW
    tile = tile // tiles_w
    h0 = (tile % tiles_h) * TH
    n0 = (tile // tiles_h) * NI
    return n0, h0, w0, c0


@triton.jit
def products(
    x_desc, w_desc, n0, h0, w0, c0, C_out, begin, end, NI: tl.constexpr, TH: tl.constexpr,
    TW: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, MIRROR: tl.constexpr,
    PRECISION: tl.constexpr = "ieee",
):  # fmt: skip
    """Steps ``begin`` to ``end`` of the sum for one tile: float32 (BC, NI * TH * TW).

    Taps run inside the channel loop, so nine shifted boxes of the same data follow each other.
    """
    P: tl.constexpr = NI * TH * TW
    acc = tl.zeros((BC, P), dtype=tl.float32)
    for i in range(begin, end):
        k0 = (i // 9) * BK
        tap = i % 9
        dh = tap // 3 - 1
        dw = tap % 3 - 1
        if MIRROR:
            dh = -dh
            dw = -dw
        box = x_desc.load([n0, h0 + dh, w0 + dw, k0])  # (NI, TH, TW, BK)
        weights = w_desc.load([tap * C_out + c0, k0])  # (BC, BK)
        acc = tl.dot(weights, box.reshape(P, BK).T, acc, input_precision=PRECISION)
    return acc


@triton.jit
def bias_relu(acc, b_ptr, c0, C_out, RELU: tl.constexpr, BC: tl.constexpr):
    """relu?(acc + b) for acc (BC, P) of the channels from c0 on; b_ptr (C_out,) or None."""
    if b_ptr is not None:
        channel = c0 + tl.arange(0, BC)
        bias = tl.load(b_ptr + channel, mask=channel < C_out, other=0.0)
        acc += bias.to(tl.float32)[:, None]
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return acc


@triton.jit
def store_pooled(
    acc, y_desc, argmax_ptr, n0, h0, w0, c0, N, HO, WO, C_out, NI: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Store the 2x2 pool of acc (BC, NI * TH * TW), and its argmax unless the pointer is None."""
    # Round first: a fused pool then chooses the element a separate pool would choose.
    rounded = acc.to(y_desc.dtype).to(tl.float32)
    best, code = _pool2x2(rounded.reshape(BC, NI, TH // 2, 2, TW // 2, 2))
    y_desc.store([n0, h0 // 2, w0 // 2, c0], best.to(y_desc.dtype).permute(1, 2, 3, 0))
    if argmax_ptr is not None:
        Q: tl.constexpr = NI * TH * TW // 4
        packed = _pack_codes(code.reshape(BC // 4, 4, Q), c0, C_out, BC)
        pixel = tl.arange(0, Q)
        n = n0 + pixel // (TH // 2 * (TW // 2))
        h = h0 // 2 + pixel // (TW // 2) % (TH // 2)
        v = w0 // 2 + pixel % (TW // 2)
        quad = c0 // 4 + tl.arange(0, BC // 4)
        quads = tl.cdiv(C_out, 4)
        offset = ((n.to(tl.int64) * HO + h) * WO + v)[None, :] * quads + quad[:, None]
        inside = ((n < N) & (h < HO) & (v < WO))[None, :] & (quad < quads)[:, None]
        tl.store(argmax_ptr + offset, packed, mask=inside)


@triton.jit
def map_descriptor(
    ptr, N, H, W, C, NI: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr, BC: tl.constexpr
):
    """A descriptor of the NHWC map at ``ptr`` with a box of (NI, TH, TW, BC)."""
    row = tl.cast(W, tl.int64) * C
    return tl.make_tensor_descriptor(
        ptr, shape=[N, H, W, C], strides=[H * row, row, C, 1], block_shape=[NI, TH, TW, BC]
    )


@triton.jit
def _pool2x2(v):
    """v (B, I, H, 2, W, 2) -> the windows' maxima (B, I, H, W) and their places 2*dh + dw."""
    left, right = tl.split(v)  # (B, I, H, 2, W)
    v0, v2 = tl.split(left.permute(0, 1, 2, 4, 3))
    v1, v3 = tl.split(right.permute(0, 1, 2, 4, 3))
    return winner(v0, v1, v2, v3)


@triton.jit
def _pack_codes(code, c0, C_out, BC: tl.constexpr):
    """Codes (BC / 4, 4, Q) of channels from c0 on -> bytes (BC / 4, Q); absent channels give 0."""
    channel = c0 + tl.arange(0, BC).reshape(BC // 4, 4)
    shift = (2 * tl.arange(0, 4))[None, :, None]
    code = tl.where((channel < C_out)[:, :, None], code << shift, 0)
    return tl.sum(code, axis=1).to(tl.uint8)
