"""The public functions of the Triton kernels: convolution and max-pool, forward and backward.

Tensors are (N, C, H, W) in channels_last memory, weights (C_out, C_in, 3, 3) contiguous, all of one
dtype (float16, bfloat16, float32) and device; callers check that. Sums run in float32; precision.py
tells how products of float32 are made.

Every result is bit-identical from run to run on one machine: no atomics, all sums in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
from torch import Tensor

from . import _interpreter
from .conv3x3 import conv3x3_fprop_kernel
from .kept import Held, changed, kept_bytes
from .launch import first, flat
from .launch.dgrad import dgrad
from .launch.e4m3 import conv3x3_e4m3, quantize_e4m3
from .launch.fprop import fprop
from .launch.gpu import on
from .launch.linear import linear
from .launch.linear import serves as serves_linear
from .launch.memory import aligned
from .launch.pool import epilogue_backward, maxpool2x2, maxpool2x2_backward
from .launch.weights import tap_rows
from .launch.wgrad import wgrad

__all__ = [
    "INTERPRETED", "Held", "changed", "conv3x3", "conv3x3_backward", "conv3x3_chain_step",
    "conv3x3_dz", "conv3x3_e4m3", "conv3x3_flat", "kept_bytes", "linear", "maxpool2x2",
    "maxpool2x2_backward", "quantize_e4m3", "serves_linear",
]  # fmt: skip

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
            aligned(x.permute(0, 2, 3, 1)), w, b, relu, pool, save_argmax, mirror=False
        )
    return y.permute(0, 3, 1, 2), argmax


def conv3x3_flat(x: Tensor, layers: Sequence[flat.Layer]) -> Tensor:
    """Convolutions one after the other, (w, b or None, relu) each, whose maps between are flat.

    x (N, C, H, W) -> (N, C_out of the last, H, W), as :func:`conv3x3` without a pool gives layer by
    layer on the same tiles. No backend calls it: which is faster is not measured yet.

    Raises:
        ValueError: layers that do not fit each other.
        RuntimeError: a map that the padded-flat form does not serve.
    """
    with on(x):
        return flat.run(x.permute(0, 2, 3, 1), layers).permute(0, 3, 1, 2)


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
            dx, _ = fprop(dz, w, None, False, False, False, mirror=True)
            dx = dx.permute(0, 3, 1, 2)
        if needs[1] and few:
            dw, _ = first.wgrad(x.permute(0, 2, 3, 1), dz, None, None, w, False)
        elif needs[1]:
            dw = wgrad(aligned(x.permute(0, 2, 3, 1)), dz, w)
    return dx, dw, db


def conv3x3_dz(
    grad: Tensor, y: Tensor, argmax: Tensor | None, height: int, width: int, want_db: bool
) -> tuple[Tensor, Tensor | None]:
    """Back through ReLU and pool: dz (N, C, height, width) and the bias gradient (C,) or None.

    grad and y: of the layer's output; argmax: its argmax if it has a pool, else None.
    """
    n, c = grad.shape[:2]
    with on(grad):
        dz, db = epilogue_backward(grad, y, argmax, (n, c, height, width), True, want_db)
    return dz[..., :c].contiguous().permute(0, 3, 1, 2), db


def conv3x3_chain_step(
    dz: Tensor,
    x: Tensor,
    w: Tensor,
    argmax: Tensor | None,
    height: int,
    width: int,
    needs: tuple[bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """From dz of a layer to dz of the layer below it, whose output x is: two GEMMs, no other pass.

    dz (N, C_out, H, W), x (N, C_in, H, W) the output of the layer below, with ``argmax`` if that
    has a pool, (height, width) its map. Returns that layer's dz (N, C_in, height, width), this
    layer's dw and that layer's bias gradient, the last two None where ``needs`` is False.
    """
    with on(dz):
        gradient, y = (aligned(t.permute(0, 2, 3, 1)) for t in (dz, x))
        below, db = dgrad(
            gradient, tap_rows(w, True), y, w.shape[1], argmax, (height, width), needs[1]
        )
        dw = wgrad(y, gradient, w) if needs[0] else None
    return below.permute(0, 3, 1, 2), dw, db
