"""Launches of the fully connected layer for a few images."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .. import precision
from ..linear import linear_join_kernel, linear_split_kernel
from ..splits import share
from .gpu import arch, cores, on
from .memory import aligned, box_operand, unit, workspace

MOST_IMAGES = 16  # above, the library's GEMM is bound by arithmetic no worse than this
BM, BO, BK_BYTES, STAGES, WARPS = 16, 64, 256, 5, 4
_JOINED = 256  # outputs a program of the joining kernel takes
_RESIDENT = 2  # programs that share a multiprocessor: 100 KB of loads each


def serves(x: Tensor, w: Tensor) -> bool:
    """Whether :func:`linear` takes x (M, K) and w (O, K): few images, one dtype, no bare sum."""
    return 0 < x.shape[0] <= MOST_IMAGES and x.dtype == w.dtype and w.numel() > 0


def linear(x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
    """y = relu?(x w^T + b): x (M <= 16, K), w (O, K), b (O,) or None, all contiguous -> (M, O)."""
    m, o = x.shape[0], w.shape[0]
    y = torch.empty((m, o), dtype=x.dtype, device=x.device)
    with on(x):
        x, w = aligned(x), aligned(w)
        bk, tma = BK_BYTES // x.element_size(), arch(x.device) >= 90
        blocks, programs = triton.cdiv(x.shape[1], bk), triton.cdiv(o, BO)
        each, splits = share(blocks, max(1, _RESIDENT * cores(x.device) // programs))
        partial = workspace((splits, m, o), x, "an FC layer")
        linear_split_kernel[(programs, splits)](
            box_operand(x, tma, (BM, bk)), box_operand(w, tma, (BO, bk)), partial,
            m, o, x.shape[1] // unit(x), each, BM=BM, BO=BO, BK=bk, TMA=tma,
            PRECISION=precision.of(x.dtype, matrix=True), num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip
        linear_join_kernel[(triton.cdiv(m * o, _JOINED),)](
            partial, b, y, m, o, splits, RELU=relu, B=_JOINED
        )
    return y
