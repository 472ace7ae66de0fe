"""The cuda backend: the CUDA C++ kernels of ``csrc/cuda``, for NVIDIA GPUs from Ampere on.

They move data: pools, normalisation, the first convolution, the loss, crops; and on compute
capability 9.0 convolve 16-bit maps of many channels. None of them was timed against Triton's or
torch's, so the automatic order leaves them out: ``backend="cuda"`` asks for them. The convolution
of many channels has its rows in the tile table too: there the tuner may find it faster.
"""

from __future__ import annotations

import sys
from functools import lru_cache

import torch
from torch import Tensor

from vggfast.backends import cuda_conv, cuda_kernels, cuda_launch
from vggfast.backends.base import Backend, Call, to_channels_last
from vggfast.backends.cuda_launch import aligned
from vggfast.backends.eager import EagerBackend
from vggfast.backends.triton import TritonBackend

_FEW = 3  # input channels of a first layer
_EAGER, _TRITON = EagerBackend(), TritonBackend()


class CudaBackend(Backend):
    """Serves maxpool2x2, lrn, cross_entropy, crops, and conv3x3.

    float16, bfloat16 and float32; sums run in float32, products of float32 are not rounded to TF32.

    conv3x3 has two kernels. One is for a first layer, of 1 to 3 input channels; its dgrad, which
    nothing asks for in training, is torch's. The other is for float16 and bfloat16 with channels in
    multiples of 64 on compute capability 9.0; its wgrad is the triton backend's where that is
    there, else torch's.
    """

    name = "cuda"
    own_ops = frozenset({"conv3x3", "maxpool2x2", "lrn", "cross_entropy", "crop_images"})

    def unavailable(self) -> str | None:
        return cuda_launch.unavailable()

    def refuse(self, call: Call) -> str | None:
        if call.op == "crop_images" and call.dtype not in cuda_launch.TYPES:
            return cuda_launch.refuse(call)
        if call.op != "conv3x3":
            return cuda_launch.refuse(call)
        few = 1 <= call.c_in <= _FEW and call.c_out % 8 == 0
        if not few and (call.c_in == 0 or call.c_in % 64 or call.c_out % 64):
            return (
                "its conv3x3 takes 1 to 3 channels (a first layer) to a multiple of 8, or "
                f"multiples of 64 on both sides, not {call.c_in} to {call.c_out}"
            )
        if few:
            return cuda_launch.refuse(call)
        of_many = cuda_conv.refuse(call.c_in, call.c_out, call.dtype)
        if of_many is not None:
            return f"its conv3x3 beyond a first layer: {of_many}"
        return cuda_launch.refuse(call) or cuda_conv.unavailable()

    def how(self, op: str, dtype: torch.dtype = torch.float32, weights: str = "fp32") -> str:
        if op not in self.own_ops:
            return super().how(op, dtype, weights)
        return f"own kernel, {cuda_launch.how()}"

    def notes(self, op: str, device: str) -> list[str]:
        """Which part of a convolution's backward is not of these kernels."""
        if op != "conv3x3":
            return []
        reason = _why_not_triton(device, torch.bfloat16)
        wgrad = "Triton's kernel" if reason is None else f"torch's library kernel ({reason})"
        return [
            f"of up to {_FEW} channels: dgrad torch's library kernel",
            f"of multiples of 64: built by nvcc for sm_90a; wgrad {wgrad}",
        ]

    def clear_weights(self) -> None:
        if "vggfast.kernels.kept" in sys.modules:
            sys.modules["vggfast.kernels.kept"].changed()

    def conv3x3(
        self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        if w.shape[1] > _FEW:
            return cuda_conv.conv3x3(x, cuda_conv.packed(w), b, relu, pool, save_argmax)
        y = cuda_kernels.first_conv(x, w.contiguous(), b, relu)
        return cuda_kernels.maxpool2x2(y, save_argmax) if pool else (y, None)

    def conv3x3_backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        y: Tensor | None,
        argmax: Tensor | None,
        relu: bool,
        pool: bool,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        mask = y if relu else None
        assert not pool or argmax is not None, "conv3x3_backward with pool needs the argmax"
        if w.shape[1] > _FEW:
            return _backward_of_many(grad, x, w, mask, argmax if pool else None, needs)
        if pool:
            assert argmax is not None
            grad = _masked(grad, mask)
            grad = cuda_kernels.maxpool2x2_backward(grad, argmax, x.shape[2], x.shape[3])
            mask = None
        dx = dw = db = None
        if needs[0]:
            dx = torch.ops.aten.convolution_backward(
                _masked(grad, mask), x, w.contiguous(memory_format=torch.channels_last), None,
                [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False],
            )[0]  # fmt: skip
            dx = to_channels_last(dx)
        if needs[1]:
            if not aligned(grad, mask):
                grad, mask = _masked(grad, mask).clone(), None
            dw, db = cuda_kernels.first_conv_wgrad(grad, x, mask, w.shape[0], True, needs[2])
        elif needs[2]:
            db = _masked(grad, mask).sum((0, 2, 3))
        return dx, dw, db

    def maxpool2x2(self, x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
        return cuda_kernels.maxpool2x2(x, save_argmax)

    def maxpool2x2_backward(self, grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
        return cuda_kernels.maxpool2x2_backward(grad, argmax, height, width)

    def lrn(self, x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
        return cuda_kernels.lrn(x, n, k, alpha, beta)

    def lrn_backward(
        self, grad: Tensor, x: Tensor, n: int, k: float, alpha: float, beta: float
    ) -> Tensor:
        return cuda_kernels.lrn_backward(grad, x, n, k, alpha, beta)

    def cross_entropy(
        self, logits: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        return cuda_kernels.cross_entropy(logits, labels, smoothing)

    def cross_entropy_backward(
        self, grad: Tensor, logits: Tensor, labels: Tensor, kept: Tensor, smoothing: float
    ) -> Tensor:
        return cuda_kernels.cross_entropy_backward(grad, logits, labels, kept, smoothing)

    def crop_images(
        self,
        images: Tensor,
        crops: Tensor,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        return cuda_kernels.crop_images(images, crops, size, mean, std, dtype)


def _backward_of_many(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    y: Tensor | None,
    argmax: Tensor | None,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(dx, dw, db) beyond a first layer; y masks grad where it is <= 0, argmax spreads it."""
    grad = to_channels_last(_masked(grad, y))
    db = grad.sum((0, 2, 3)) if needs[2] else None
    dx = dw = None
    if argmax is not None and (needs[0] or needs[1]):
        grad = cuda_kernels.maxpool2x2_backward(grad, argmax, x.shape[2], x.shape[3])
    if needs[0]:
        rotated = cuda_conv.packed(w, rotated=True)
        dx, _ = cuda_conv.conv3x3(grad, rotated, None, False, False, False)
    if needs[1]:
        other = _TRITON if _serves_wgrad(x.device.type, x.dtype) else _EAGER
        alone = (False, True, False)
        _, dw, _ = other.conv3x3_backward(grad, x, w, None, None, False, False, alone)
    return dx, dw, db


@lru_cache(maxsize=8)
def _serves_wgrad(device: str, dtype: torch.dtype) -> bool:
    """Whether Triton's kernel makes dw beyond a first layer; asked once, not at every call."""
    return _why_not_triton(device, dtype) is None


def _why_not_triton(device: str, dtype: torch.dtype) -> str | None:
    return _TRITON.unavailable() or _TRITON.refuse(Call("conv3x3", device, dtype, 64, 64))


def _masked(grad: Tensor, y: Tensor | None) -> Tensor:
    return grad if y is None else torch.where(y <= 0, 0, grad)
