"""Triton kernels of the padded-flat form of the 3x3 convolution, forward and dgrad.

A map (N, H, W, C) is kept as a matrix of N * (H + 1) * (W + 1) rows of C channels:

    row(n, h, w) = (n * (H + 1) + h) * (W + 1) + w       0 <= h <= H, 0 <= w <= W

where the rows with h = H or w = W are zero: one row and one column that serve the images and lines
on both sides of them. A neighbour of a pixel then lies a fixed number of rows away, whatever the
pixel, and what lies outside the map is one of those zeros, or a row before the first or after the
last, which a tensor descriptor reads as zero. So the convolution is nine products with the same
matrix, shifted:

    y[q, co] = sum over r,s,ci of x[q + (r - 1) * (W + 1) + s - 1, ci] * w[co,ci,r,s]

for every row q that is a pixel. A tile is any P rows in succession, a plain 2-D box. The other rows
are computed too, for nothing, and written as zeros, so that the next layer can read y as it is.

As in conv3x3.py weights stand on the M side of the product and pixels on the N side, both straight
from a descriptor's load.
"""

import triton
import triton.language as tl

from .conv3x3 import bias_relu

SIZES = ["rows", "H", "W", "QI", "QO", "C_out"]


@triton.jit(do_not_specialize=[*SIZES, "by_line", "by_image", "tiles"])
def conv3x3_flat_kernel(
    x,  # (rows, 16 bytes x QI channels); box (P, BK)
    w,  # (9 * C_out, 16 bytes x QI): row tap * C_out + co, tap = 3 r + s; box (BC, BK)
    b_ptr,  # (C_out,) or None
    y,  # FLAT: (rows, 16 bytes x QO channels); box (P, BC). Else a pointer to (N, H, W, 16 x QO)
    pixels_ptr,  # int32 (ceil(rows / 32),): a bit a row, 1 for a pixel, or None unless FLAT
    rows,  # N * (H + 1) * (W + 1)
    H,
    W,
    QI,
    QO,
    C_out,
    by_line,  # ceil(2^32 / (W + 1)), and
    by_image,  # ceil(2^32 / (H + 1)): their high halves divide, see place
    tiles,
    P: tl.constexpr,
    BC: tl.constexpr,
    BK: tl.constexpr,
    RELU: tl.constexpr,
    FLAT: tl.constexpr,  # y stays flat, else it is a plain NHWC map
    FILL: tl.constexpr,  # y has channels from C_out on, which are written as zeros if FLAT
    MIRROR: tl.constexpr,  # taps point the other way: dgrad
    PRECISION: tl.constexpr,  # of float32 products: "ieee", "tf32x3" or "tf32"
    PERSISTENT: tl.constexpr,  # a program takes every so manieth tile instead of one
    TMA: tl.constexpr,  # x, w and a flat y are tensor descriptors made by the host, else pointers
):
    """P rows x BC output channels of y."""
    if TMA:
        x_desc = x
        w_desc = w
    else:
        UNIT: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        x_desc = tl.make_tensor_descriptor(x, [rows, QI * UNIT], [QI * UNIT, 1], [P, BK])
        w_desc = tl.make_tensor_descriptor(w, [9 * C_out, QI * UNIT], [QI * UNIT, 1], [BC, BK])
    if FLAT and not TMA:
        y_to = tl.make_tensor_descriptor(y, [rows, QO * UNIT], [QO * UNIT, 1], [P, BC])
    else:
        y_to = y
    steps = 9 * tl.cdiv(QI * (128 // x_desc.dtype.primitive_bitwidth), BK)
    if PERSISTENT:
        # Flattened, the loads of the next tile are under way while a tile is finished.
        for i in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
            flat_tile(
                x_desc, w_desc, b_ptr, y_to, pixels_ptr, i, rows, H, W, QO, C_out, by_line,
                by_image, steps, P, BC, BK, RELU, FLAT, FILL, MIRROR, PRECISION,
            )  # fmt: skip
    else:
        flat_tile(
            x_desc, w_desc, b_ptr, y_to, pixels_ptr, tl.program_id(0), rows, H, W, QO, C_out,
            by_line, by_image, steps, P, BC, BK, RELU, FLAT, FILL, MIRROR, PRECISION,
        )  # fmt: skip


@triton.jit
def flat_tile(
    x_desc, w_desc, b_ptr, y, pixels_ptr, i, rows, H, W, QO, C_out, by_line, by_image, steps,
    P: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, RELU: tl.constexpr, FLAT: tl.constexpr,
    FILL: tl.constexpr, MIRROR: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Tile ``i`` from its products to y. Channel tiles run fastest: they share rows of x."""
    tiles_c = tl.cdiv(C_out, BC)
    c0 = (i % tiles_c) * BC
    row0 = (i // tiles_c) * P
    acc = tl.zeros((BC, P), dtype=tl.float32)
    # Taps run inside the channel loop, so nine shifted boxes of the same rows follow each other.
    for step in range(0, steps):
        k0 = (step // 9) * BK
        tap = step % 9
        shift = (tap // 3 - 1) * (W + 1) + tap % 3 - 1
        if MIRROR:
            shift = -shift
        box = x_desc.load([row0 + shift, k0])  # (P, BK)
        weights = w_desc.load([tap * C_out + c0, k0])  # (BC, BK)
        acc = tl.dot(weights, box.T, acc, input_precision=PRECISION)
    acc = bias_relu(acc, b_ptr, c0, C_out, RELU, BC)
    channel = c0 + tl.arange(0, BC)
    if FLAT:
        acc = tl.where(flags(pixels_ptr, row0, rows, P)[None, :], acc, 0.0)
        if FILL:
            acc = tl.where((channel < C_out)[:, None], acc, 0.0)
        y.store([row0, c0], acc.to(y.dtype).T)
    else:
        C: tl.constexpr = 128 // y.dtype.element_ty.primitive_bitwidth
        n, h, v = place(row0, tl.arange(0, P), H, W, by_line, by_image)
        at = ((n.to(tl.int64) * H + h) * W + v) * (QO * C)
        pixel = (h < H) & (v < W) & (row0 + tl.arange(0, P) < rows)
        kept = pixel[:, None] & (channel < QO * C)[None, :]
        tl.store(y + at[:, None] + channel[None, :], acc.to(y.dtype.element_ty).T, mask=kept)


@triton.jit
def flags(pixels_ptr, row0, rows, P: tl.constexpr):
    """Whether each of the rows (P,) from row0 on is a pixel.

    Read, since the sums of a pixel are spread over many threads, each of which would find out by
    divisions of its own: Triton computes again what takes no memory, rather than hand it over.
    """
    word = row0 // 32 + tl.arange(0, P // 32)
    words = tl.load(pixels_ptr + word, mask=word < tl.cdiv(rows, 32), other=0)
    return ((words[:, None] >> tl.arange(0, 32)[None, :]) & 1).reshape(P) != 0


@triton.jit
def place(row0, i, H, W, by_line, by_image):
    """Image, line and column of the rows row0 + i, for i (P,) from 0 on.

    Dividends are small here, so the high half of a product with ceil(2^32 / d) is the quotient: of
    t by d it is where t * d < 2^32, which the launch checks.
    """
    line0 = row0 // (W + 1)
    t = (row0 % (W + 1) + i).to(tl.uint32)
    lines = tl.umulhi(t, by_line.to(tl.uint32))
    v = t - lines * (W + 1).to(tl.uint32)
    u = (line0 % (H + 1)).to(tl.uint32) + lines
    images = tl.umulhi(u, by_image.to(tl.uint32))
    h = u - images * (H + 1).to(tl.uint32)
    n = line0 // (H + 1) + images.to(tl.int32)
    return n, h.to(tl.int32), v.to(tl.int32)


@triton.jit(do_not_specialize=["rows", "H", "W", "Q"])
def to_flat_kernel(
    x_ptr,  # (N, H, W, 16 bytes x Q channels)
    y_ptr,  # (rows, 16 bytes x Q)
    pixels_ptr,  # int32 (ceil(rows / 32),)
    rows,
    H,
    W,
    Q,
    P: tl.constexpr,  # a multiple of 32
    BC: tl.constexpr,
):
    """P rows x BC channels of a plain map in the padded-flat form, and which rows are pixels."""
    row = tl.program_id(0) * P + tl.arange(0, P)
    line = row // (W + 1)
    v = row % (W + 1)
    h = line % (H + 1)
    n = line // (H + 1)
    pixel = (h < H) & (v < W) & (row < rows)
    if tl.program_id(1) == 0:
        bit = tl.arange(0, 32)[None, :]
        words = tl.sum(pixel.to(tl.int32).reshape(P // 32, 32) << bit, axis=1)
        word = tl.program_id(0) * (P // 32) + tl.arange(0, P // 32)
        tl.store(pixels_ptr + word, words, mask=word < tl.cdiv(rows, 32))
    C = Q * (128 // x_ptr.dtype.element_ty.primitive_bitwidth)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    given = pixel[:, None] & (channel < C)[None, :]
    from_row = ((n.to(tl.int64) * H + h) * W + v) * C
    values = tl.load(x_ptr + from_row[:, None] + channel[None, :], mask=given, other=0.0)
    kept = (row < rows)[:, None] & (channel < C)[None, :]
    tl.store(y_ptr + (row.to(tl.int64) * C)[:, None] + channel[None, :], values, mask=kept)
