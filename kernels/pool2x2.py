"""Triton kernels around the 2x2 max-pool and the way back through a fused epilogue.

Maps are NHWC. The winner of a window is kept in 2 bits: channel c at position 2 * (c % 4) of byte
c // 4 of an array (N, H // 2, W // 2, ceil(C / 4)); its value is 2 * dh + dw. The last NaN of a
window wins, else the first maximum, as torch has it.
"""

import triton
import triton.language as tl

SIZES = ["N", "H", "W", "C", "C_PAD", "windows", "pixels", "rows", "rows_per_program", "partials"]


@triton.jit
def winner(v0, v1, v2, v3):
    """The maximum of four tensors and its index (int32): the last NaN, else the first maximum.

    A maximum that is NaN is never exceeded, so only a later NaN replaces it.
    """
    take = (v1 > v0) | (v1 != v1)
    best = tl.where(take, v1, v0)
    code = take.to(tl.int32)
    take = (v2 > best) | (v2 != v2)
    best = tl.where(take, v2, best)
    code = tl.where(take, 2, code)
    take = (v3 > best) | (v3 != v3)
    best = tl.where(take, v3, best)
    code = tl.where(take, 3, code)
    return best, code


@triton.jit(do_not_specialize=SIZES)
def maxpool2x2_kernel(
    x_ptr,  # (N, H, W, C)
    y_ptr,  # (N, H // 2, W // 2, C)
    argmax_ptr,  # uint8 (N, H // 2, W // 2, ceil(C / 4)) or None
    N,
    H,
    W,
    C,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """BP windows x BC channels (BC a multiple of 4)."""
    HO = H // 2
    WO = W // 2
    window = tl.cast(tl.program_id(0), tl.int64) * BP + tl.arange(0, BP)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (window < tl.cast(N, tl.int64) * HO * WO)[:, None] & (channel < C)[None, :]
    j = window % WO
    i = window // WO % HO
    n = window // (tl.cast(WO, tl.int64) * HO)
    row = tl.cast(W, tl.int64) * C
    corner = ((n * H + 2 * i) * row + 2 * j * C)[:, None] + channel[None, :]  # [BP, BC]
    v0 = tl.load(x_ptr + corner, mask=inside).to(tl.float32)
    v1 = tl.load(x_ptr + corner + C, mask=inside).to(tl.float32)
    v2 = tl.load(x_ptr + corner + row, mask=inside).to(tl.float32)
    v3 = tl.load(x_ptr + corner + row + C, mask=inside).to(tl.float32)
    best, code = winner(v0, v1, v2, v3)
    y_at = y_ptr + window[:, None] * C + channel[None, :]
    tl.store(y_at, best.to(y_ptr.dtype.element_ty), mask=inside)
    if argmax_ptr is not None:
        code = tl.where(inside, code << (2 * (channel % 4))[None, :], 0)
        packed = tl.sum(code.reshape(BP, BC // 4, 4), axis=2).to(tl.uint8)
        quad = tl.program_id(1) * (BC // 4) + tl.arange(0, BC // 4)
        quads = tl.cdiv(C, 4)
        kept = (window < tl.cast(N, tl.int64) * HO * WO)[:, None] & (quad < quads)[None, :]
        tl.store(argmax_ptr + window[:, None] * quads + quad[None, :], packed, mask=kept)


@triton.jit(do_not_specialize=SIZES)
def pool_backward_kernel(
    grad_ptr,  # (N, H // 2, W // 2, C)
    y_ptr,  # as grad, the output of a ReLU, or None: no ReLU
    argmax_ptr,  # uint8 (N, H // 2, W // 2, ceil(C / 4))
    dz_ptr,  # (N, H, W, C_PAD)
    partial_ptr,  # float32 (programs, C): sums of dz over the program's pixels, or None
    N,
    H,
    W,
    C,
    C_PAD,
    rows_per_program,  # windows a program serves, a multiple of BP
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """dz at each window's winner, zero elsewhere (odd last rows and columns too, and the padding).

    Windows are counted to the map's end, (N, ceil(H/2), ceil(W/2)): those that stick out have no
    winner and only write zeros. One read of a gradient serves the four pixels of its window.
    """
    HO = H // 2
    WO = W // 2
    HC = (H + 1) // 2
    WC = (W + 1) // 2
    rows = tl.cast(N, tl.int64) * HC * WC
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    quads = tl.cdiv(C, 4)
    begin = tl.cast(tl.program_id(0), tl.int64) * rows_per_program
    total = tl.zeros((BC,), dtype=tl.float32)
    for start in range(0, rows_per_program, BP):
        window = begin + start + tl.arange(0, BP)
        j = window % WC
        i = window // WC % HC
        n = window // (tl.cast(WC, tl.int64) * HC)
        whole = (window < rows) & (i < HO) & (j < WO)
        inside = whole[:, None] & (channel < C)[None, :]
        source = (n * HO + i) * WO + j  # [BP]
        at = source[:, None] * C + channel[None, :]
        gradient = tl.load(grad_ptr + at, mask=inside, other=0.0)
        if y_ptr is not None:
            gradient = tl.where(tl.load(y_ptr + at, mask=inside, other=0.0) <= 0, 0.0, gradient)
        packed = tl.load(
            argmax_ptr + source[:, None] * quads + (channel // 4)[None, :], mask=inside, other=0
        )
        code = (packed.to(tl.int32) >> (2 * (channel % 4))[None, :]) & 3
        if partial_ptr is not None:
            total += tl.sum(gradient.to(tl.float32), axis=0)
        for k in tl.static_range(4):
            h = 2 * i + k // 2
            w = 2 * j + k % 2
            to = ((n * H + h) * W + w)[:, None] * C_PAD + channel[None, :]
            kept = ((window < rows) & (h < H) & (w < W))[:, None] & (channel < C_PAD)[None, :]
            tl.store(dz_ptr + to, tl.where(code == k, gradient, 0.0), mask=kept)
    if partial_ptr is not None:
        tl.store(partial_ptr + tl.program_id(0) * C + channel, total, mask=channel < C)


@triton.jit(do_not_specialize=SIZES)
def relu_backward_kernel(
    grad_ptr,  # (pixels, C)
    y_ptr,  # as grad, the output of a ReLU, or None: no ReLU
    dz_ptr,  # (pixels, C_PAD), or None: only the sums are wanted
    partial_ptr,  # float32 (programs, C): sums of dz over the program's pixels, or None
    pixels,
    C,
    C_PAD,
    rows_per_program,  # pixels a program serves, a multiple of BP
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """dz = grad where not y <= 0, else 0 (a NaN passes the gradient on); zero in the padding."""
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    begin = tl.cast(tl.program_id(0), tl.int64) * rows_per_program
    total = tl.zeros((BC,), dtype=tl.float32)
    for start in range(0, rows_per_program, BP):
        pixel = begin + start + tl.arange(0, BP)
        inside = (pixel < pixels)[:, None] & (channel < C)[None, :]
        at = pixel[:, None] * C + channel[None, :]
        gradient = tl.load(grad_ptr + at, mask=inside, other=0.0)
        if y_ptr is not None:
            gradient = tl.where(tl.load(y_ptr + at, mask=inside, other=0.0) <= 0, 0.0, gradient)
        if partial_ptr is not None:
            total += tl.sum(gradient.to(tl.float32), axis=0)
        if dz_ptr is not None:
            kept = (pixel < pixels)[:, None] & (channel < C_PAD)[None, :]
            tl.store(dz_ptr + pixel[:, None] * C_PAD + channel[None, :], gradient, mask=kept)
    if partial_ptr is not None:
        tl.store(partial_ptr + tl.program_id(0) * C + channel, total, mask=channel < C)


@triton.jit(do_not_specialize=SIZES)
def column_sum_kernel(
    partial_ptr,  # float32 (partials, C)
    db_ptr,  # (C,)
    partials,
    C,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """db = the sum of the partial sums, in a fixed order."""
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), dtype=tl.float32)
    for start in range(0, partials, BP):
        row = start + tl.arange(0, BP)
        inside = (row < partials)[:, None] & (channel < C)[None, :]
        at = tl.cast(row, tl.int64)[:, None] * C + channel[None, :]
        total += tl.sum(tl.load(partial_ptr + at, mask=inside, other=0.0), axis=0)
    tl.store(db_ptr + channel, total.to(db_ptr.dtype.element_ty), mask=channel < C)
