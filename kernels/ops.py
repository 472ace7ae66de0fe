"""The public functions of the Triton kernels: convolution and max-pool, forward and backward.

Tensors are (N, C, H, W) in channels_last memory, weights (C_out, C_in, 3, 3) contiguous, all of one
dtype (float16, bfloat16, float32) and device; callers check that. Sums run in float32, and float32
products are exact IEEE products on the ordinary cores ("ieee"), never TF32, whatever torch's own
``allow_tf32`` says: slower than TF32 tensor cores, and right to float32.

Every result is bit-identical from run to run on one machine: no atomics, all sums in a fixed order.
"""

from __future__ import annotations

import triton
from torch import Tensor

from . import _interpreter
from .conv3x3 import conv3x3_fprop_kernel
from .launch import first
from .launch.fprop import fprop
from .launch.gpu import on
from .launch.memory import aligned, tap_rows
from .launch.pool import epilogue_backward, maxpool2x2, maxpool2x2_backward
from .launch.wgrad import wgrad

__all__ = ["INTERPRETED", "conv3x3", "conv3x3_backward", "maxpool2x2", "maxpool2x2_backward"]

# Triton decides at import whether its kernels are compiled or interpreted (TRITON_INTERPRET=1).
INTERPRETED = not isinstance(conv3x3_fprop_kernel, triton.JITFunction)
if INTERPRETED:
    _interpreter.repair()


def conv3x3(
    x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
) -> tuple[Tensor, Tensor | None]:
    """y = pool2x2?(relu?(conv(x, w, stride 1, padding 1) + b)), and the packed argmax or None.

    x (N, C_in, H, W), w (C_out, C_in, 3, 3), b (C_out,) or None; y (N, C_out, H, W) or
    (N, C_out, H // 2, W // 2); argmax uint8 (N, H // 2, W // 2, ceil(C_out / 4)).
    """
    with on(x):
        if w.shape[1] <= first.CHANNELS:
            y, argmax = first.fprop(x.permute(0, 2, 3, 1), w, b, relu, pool, save_argmax)
            return y.permute(0, 3, 1, 2), argmax
        y, argmax = fprop(
            aligned(x.permute(0, 2, 3, 1)), tap_rows(w, False), w.shape[0], b, relu, pool,
            save_argmax, False,
        )  # fmt: skip
    return y.permute(0, 3, 1, 2), argmax


def conv3x3_backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    y: Tensor | None,
    argmax: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients (dx, dw, db) of :func:`conv3x3`; None where ``needs`` is False.

    y: its output if it had a ReLU, else None; argmax: its argmax if it had a pool, else None.
    Without ``needs[1]`` only the shape of x counts.
    """
    few = w.shape[1] <= first.CHANNELS
    with on(grad):
        if few and needs[1] and not needs[0] and first.reads_grad(grad):
            mask = None if y is None else y.permute(0, 2, 3, 1)
            rows = grad.permute(0, 2, 3, 1)
            return None, *first.wgrad(x.permute(0, 2, 3, 1), rows, mask, argmax, w, needs[2])
        dz, db = epilogue_backward(grad, y, argmax, x.shape, needs[0] or needs[1], needs[2])
        dx = dw = None
        if needs[0]:
            dx, _ = fprop(
                dz, tap_rows(w, True), w.shape[1], None, False, False, False, True
            )  # fmt: skip
            dx = dx.permute(0, 3, 1, 2)
        if needs[1] and few:
            dw, _ = first.wgrad(x.permute(0, 2, 3, 1), dz, None, None, w, False)
        elif needs[1]:
            dw = wgrad(aligned(x.permute(0, 2, 3, 1)), dz, w)
    return dx, dw, db
