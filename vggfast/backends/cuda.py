"""The cuda backend: the CUDA C++ kernels of ``csrc/cuda``, for NVIDIA GPUs from Ampere on.

They move data: pools, normalisation, the first convolution, the loss, crops. None of them was
timed against Triton's or torch's, so the automatic order leaves them out: ``backend="cuda"`` asks
for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.backends import cuda_kernels, cuda_launch
from vggfast.backends.base import Backend, Call, to_channels_last
from vggfast.backends.cuda_launch import aligned


class CudaBackend(Backend):
    """Serves maxpool2x2, lrn, cross_entropy, crops, and the conv3x3 of a first layer.

    float16, bfloat16 and float32; sums run in float32, products of float32 are not rounded to TF32.
    dgrad of the first layer, which nothing asks for in training, is torch's.
    """

    name = "cuda"
    own_ops = frozenset({"conv3x3", "maxpool2x2", "lrn", "cross_entropy", "crop_images"})

    def unavailable(self) -> str | None:
        return cuda_launch.unavailable()

    def refuse(self, call: Call) -> str | None:
        if call.op == "crop_images" and call.dtype not in cuda_launch.TYPES:
            return cuda_launch.refuse(call)
        if call.op == "conv3x3" and not (1 <= call.c_in <= 3 and call.c_out % 8 == 0):
            return (
                "its conv3x3 is for a first layer: 1 to 3 input channels and a multiple of 8 "
                f"outputs, not {call.c_in} to {call.c_out}"
            )
        return cuda_launch.refuse(call)

    def how(self, op: str, dtype: torch.dtype = torch.float32, weights: str = "fp32") -> str:
        if op not in self.own_ops:
            return super().how(op, dtype, weights)
        return f"own kernel, {cuda_launch.how()}"

    def conv3x3(
        self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        y = cuda_kernels.first_conv(x, w, b, relu)
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
        if pool:
            assert argmax is not None, "conv3x3_backward with pool needs the argmax"
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


def _masked(grad: Tensor, y: Tensor | None) -> Tensor:
    return grad if y is None else torch.where(y <= 0, 0, grad)
