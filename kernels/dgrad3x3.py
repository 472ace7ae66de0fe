"""Triton kernels of a chain's backward pass: dgrad whose epilogue is the way back below it.

    g[n,h,w,c] = sum over r,s,co of dz[n, h-r+1, w-s+1, co] * w[co,c,r,s]

is the gradient with respect to y, the input of this convolution and the output of the layer below,
y = pool2x2?(relu(z)). The epilogue makes of it the gradient with respect to z, still in registers:
g where not y <= 0, else 0 (a NaN in y passes the gradient on), and behind a pool this value at the
window's winner and zero at its other three pixels. Its sums over each tile's pixels are the parts
of the bias gradient of the layer below. So no pass over a map lies between two layers' GEMMs.

Tiles, boxes and operands are those of conv3x3.py; the argmax is packed as pool2x2.py has it.
"""

import triton
import triton.language as tl

from .conv3x3 import SIZES, map_descriptor, place, products


@triton.jit(do_not_specialize=[*SIZES, "HB", "WB"])
def conv3x3_dgrad_kernel(
    dz,  # (N, H, W, 16 bytes x QI channels); box (NI, TH, TW, BK)
    w,  # (9 * C_out, 16 bytes x QI): row tap * C_out + c; box (BC, BK)
    y,  # (N, H, W, 16 bytes x QO channels), the output of the layer below; box (NI, TH, TW, BC)
    argmax_ptr,  # uint8 (N, H, W, ceil(C_out / 4)) if the layer below has a pool, else None
    below,  # its dz (N, HB, WB, 16 bytes x QO), box as y's; with a pool the pixels [0::2, 0::2],
    below01,  # [0::2, 1::2],
    below10,  # [1::2, 0::2] and
    below11,  # [1::2, 1::2] of it. Pointers (not TMA): `below` alone, for the whole map
    partial_ptr,  # float32 (boxes of pixels, C_out): sums of the result over each box, or None
    N,
    H,
    W,
    HB,
    WB,
    QI,
    QO,
    C_out,  # channels of y, this product's output
    tiles_h,
    tiles_w,
    NI: tl.constexpr,
    TH: tl.constexpr,
    TW: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,  # of float32 products
    TMA: tl.constexpr,
):
    """One box of y's pixels x BC of its channels.

    Behind a pool boxes cover ceil(HB / 2) x ceil(WB / 2) windows: those that stick out of y read
    y = 0 there and so write the zeros of an odd last row or column.
    """
    if TMA:
        dz_desc = dz
        w_desc = w
        y_desc = y
    else:
        UNIT: tl.constexpr = 128 // dz.dtype.element_ty.primitive_bitwidth
        dz_desc = map_descriptor(dz, N, H, W, QI * UNIT, NI, TH, TW, BK)
        w_desc = tl.make_tensor_descriptor(w, [9 * C_out, QI * UNIT], [QI * UNIT, 1], [BC, BK])
        y_desc = map_descriptor(y, N, H, W, QO * UNIT, NI, TH, TW, BC)
    C_in = QI * (128 // dz_desc.dtype.primitive_bitwidth)
    n0, h0, w0, c0 = place(tl.program_id(0), C_out, tiles_h, tiles_w, NI, TH, TW, BC)
    acc = products(
        dz_desc, w_desc, n0, h0, w0, c0, C_out, 0, 9 * tl.cdiv(C_in, BK),
        NI, TH, TW, BC, BK, True, PRECISION,
    )  # fmt: skip
    P: tl.constexpr = NI * TH * TW
    # Outside the map y reads as zero, so nothing of the box's overhang is stored or summed. Pixels
    # come first from here on, as in memory: the other way round fills sm_80's registers.
    y_box = y_desc.load([n0, h0, w0, c0]).reshape(P, BC)
    value = tl.where(y_box <= 0, 0.0, acc.to(y_desc.dtype).T)  # (P, BC)
    if partial_ptr is not None:
        channel = c0 + tl.arange(0, BC)
        box = tl.cast(tl.program_id(0) // tl.cdiv(C_out, BC), tl.int64)
        total = tl.sum(value.to(tl.float32), axis=0)
        tl.store(partial_ptr + box * C_out + channel, total, mask=channel < C_out)
    if argmax_ptr is None:
        whole = below if TMA else map_descriptor(below, N, H, W, QO * UNIT, NI, TH, TW, BC)
        _store(whole, value, n0, h0, w0, c0, NI, TH, TW, BC)
    else:
        code = _codes(argmax_ptr, n0, h0, w0, c0, N, H, W, C_out, NI, TH, TW, BC)
        if TMA:
            _store(below, tl.where(code == 0, value, 0.0), n0, h0, w0, c0, NI, TH, TW, BC)
            _store(below01, tl.where(code == 1, value, 0.0), n0, h0, w0, c0, NI, TH, TW, BC)
            _store(below10, tl.where(code == 2, value, 0.0), n0, h0, w0, c0, NI, TH, TW, BC)
            _store(below11, tl.where(code == 3, value, 0.0), n0, h0, w0, c0, NI, TH, TW, BC)
        else:
            for k in tl.static_range(4):
                part = _window_descriptor(
                    below, k // 2, k % 2, N, HB, WB, QO * UNIT, NI, TH, TW, BC
                )
                _store(part, tl.where(code == k, value, 0.0), n0, h0, w0, c0, NI, TH, TW, BC)


@triton.jit
def _store(
    desc, value, n0, h0, w0, c0, NI: tl.constexpr, TH: tl.constexpr, TW: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """Store value (NI * TH * TW, BC) as the box of ``desc`` at (n0, h0, w0, c0)."""
    desc.store([n0, h0, w0, c0], value.reshape(NI, TH, TW, BC))


@triton.jit
def _codes(
    argmax_ptr, n0, h0, w0, c0, N, H, W, C_out, NI: tl.constexpr, TH: tl.constexpr,
    TW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The winners' places 2 * dh + dw of a box, uint8 (NI * TH * TW, BC); zero outside the map."""
    P: tl.constexpr = NI * TH * TW
    pixel = tl.arange(0, P)
    n = n0 + pixel // (TH * TW)
    h = h0 + pixel // TW % TH
    v = w0 + pixel % TW
    quad = c0 // 4 + tl.arange(0, BC // 4)
    quads = tl.cdiv(C_out, 4)
    offset = ((n.to(tl.int64) * H + h) * W + v)[:, None] * quads + quad[None, :]
    inside = ((n < N) & (h < H) & (v < W))[:, None] & (quad < quads)[None, :]
    packed = tl.load(argmax_ptr + offset, mask=inside, other=0)  # (P, BC / 4)
    shift = (2 * tl.arange(0, 4)).to(tl.uint8)
    return ((packed[:, :, None] >> shift[None, None, :]) & 3).reshape(P, BC)


@triton.jit
def _window_descriptor(
    ptr, dh, dw, N, H, W, C, NI: tl.constexpr, TH: tl.constexpr,
    TW: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A descriptor of the pixels [dh::2, dw::2] of the NHWC map at ``ptr``."""
    row = tl.cast(W, tl.int64) * C
    return tl.make_tensor_descriptor(
        ptr + dh * row + dw * C,
        shape=[N, (H - dh + 1) // 2, (W - dw + 1) // 2, C],
        strides=[H * row, 2 * row, 2 * C, 1],
        block_shape=[NI, TH, TW, BC],
    )


@triton.jit(do_not_specialize=["rows", "C", "rows_per_program"])
def conv3x3_dgrad_sum_kernel(
    partial_ptr,  # float32 (rows, C)
    sum_ptr,  # (programs, C), float32 but for the last stage
    rows,
    C,
    rows_per_program,  # a multiple of BP
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Sums over each program's rows in a fixed order: one stage of a bias gradient's addition."""
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    begin = tl.cast(tl.program_id(0), tl.int64) * rows_per_program
    total = tl.zeros((BC,), dtype=tl.float32)
    for start in range(0, rows_per_program, BP):
        row = begin + start + tl.arange(0, BP)
        inside = (row < rows)[:, None] & (channel < C)[None, :]
        at = row[:, None] * C + channel[None, :]
        total += tl.sum(tl.load(partial_ptr + at, mask=inside, other=0.0), axis=0)
    at = sum_ptr + tl.cast(tl.program_id(0), tl.int64) * C + channel
    tl.store(at, total.to(sum_ptr.dtype.element_ty), mask=channel < C)
