"""Triton kernel that lays out 3x3 weights as the rows the convolution reads.

    rows[tap * R + r, c] = w[r, c, tap // 3, tap % 3]     (R, C) = (C_out, C_in): fprop
                           w[c, r, tap // 3, tap % 3]     (R, C) = (C_in, C_out): dgrad

and zero in the columns from C on, which fill a row to 16 bytes. dgrad's turned taps are fprop's,
read the other way (MIRROR in conv3x3.py), so the two differ by the order of w's strides alone.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["R", "C", "C_PAD", "stride_r", "stride_c", "stride_h", "stride_w"])
def pack3x3_kernel(
    w_ptr,
    rows_ptr,  # (9 * R, C_PAD)
    R,
    C,
    C_PAD,
    stride_r,  # of w, in elements: any
    stride_c,
    stride_h,
    stride_w,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """All nine taps of BR x BC weights: they lie side by side in w, and share its cache lines."""
    r = tl.program_id(0) * BR + tl.arange(0, BR)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    at = tl.cast(r, tl.int64)[:, None] * stride_r + tl.cast(c, tl.int64)[None, :] * stride_c
    given = (r < R)[:, None] & (c < C)[None, :]
    kept = (r < R)[:, None] & (c < C_PAD)[None, :]
    for tap in tl.static_range(9):
        from_tap = w_ptr + tap // 3 * stride_h + tap % 3 * stride_w
        values = tl.load(from_tap + at, mask=given, other=0.0)
        row = tl.cast(tap * R + r, tl.int64)
        tl.store(rows_ptr + row[:, None] * C_PAD + c[None, :], values, mask=kept)
