"""Triton kernels of a fully connected layer for a few images: the time is that of reading weights.

y[m, o] = relu?(sum over k of x[m, k] * w[o, k] + b[o])

The weights stand on the M side of the product and up to 16 images on the N side. A layer has too
few outputs to keep all of memory busy (64 blocks of 64 for 4096), so the sum over k is split among
programs too; a second kernel adds the parts, in their order, with bias and ReLU.
"""

import triton
import triton.language as tl

SIZES = ["M", "OUT", "QK", "blocks_per_split", "splits"]


@triton.jit(do_not_specialize=SIZES)
def linear_split_kernel(
    x,  # (M, 16 bytes x QK); box (BM, BK)
    w,  # (OUT, 16 bytes x QK); box (BO, BK)
    partial_ptr,  # float32 (splits, M, OUT)
    M,
    OUT,
    QK,
    blocks_per_split,
    BM: tl.constexpr,
    BO: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,  # of float32 products
    TMA: tl.constexpr,  # x and w are tensor descriptors made by the host, else pointers
):
    """The part of BO outputs that one split of K gives, for BM images."""
    if TMA:
        x_desc = x
        w_desc = w
    else:
        UNIT: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        x_desc = tl.make_tensor_descriptor(x, [M, QK * UNIT], [QK * UNIT, 1], [BM, BK])
        w_desc = tl.make_tensor_descriptor(w, [OUT, QK * UNIT], [QK * UNIT, 1], [BO, BK])
    K = QK * (128 // x_desc.dtype.primitive_bitwidth)
    o0 = tl.program_id(0) * BO
    split = tl.program_id(1)
    begin = split * blocks_per_split
    acc = tl.zeros((BO, BM), dtype=tl.float32)
    for i in range(begin, tl.minimum(begin + blocks_per_split, tl.cdiv(K, BK))):
        weights = w_desc.load([o0, i * BK])
        images = x_desc.load([0, i * BK])
        acc = tl.dot(weights, images.T, acc, input_precision=PRECISION)
    o = o0 + tl.arange(0, BO)
    m = tl.arange(0, BM)
    inside = (o < OUT)[:, None] & (m < M)[None, :]
    to = partial_ptr + tl.cast(split, tl.int64) * M * OUT
    tl.store(to + m[None, :] * OUT + o[:, None], acc, mask=inside)


@triton.jit(do_not_specialize=SIZES)
def linear_join_kernel(
    partial_ptr,  # float32 (splits, M, OUT)
    b_ptr,  # (OUT,) or None
    y_ptr,  # (M, OUT)
    M,
    OUT,
    splits,
    RELU: tl.constexpr,
    B: tl.constexpr,
):
    """B values of y: the sum of the splits in their order, bias, ReLU."""
    at = tl.program_id(0) * B + tl.arange(0, B)
    inside = at < M * OUT
    acc = tl.zeros((B,), dtype=tl.float32)
    for split in range(splits):
        part = partial_ptr + tl.cast(split, tl.int64) * M * OUT
        acc += tl.load(part + at, mask=inside, other=0.0)
    if b_ptr is not None:
        acc += tl.load(b_ptr + at % OUT, mask=inside, other=0.0).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(y_ptr + at, acc.to(y_ptr.dtype.element_ty), mask=inside)
