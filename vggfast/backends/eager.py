"""The eager backend: torch's own kernels (cuDNN on a GPU, oneDNN on a CPU). Serves every call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast.backends import argmax as packed
from vggfast.backends.base import Backend, Call, to_channels_last


class EagerBackend(Backend):
    """Unfused and slower than kernels of our own, but right on every device and dtype."""

    name = "eager"

    def unavailable(self) -> str | None:
        return None

    def refuse(self, call: Call) -> str | None:
        return None

    def conv3x3(
        self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        y = F.conv2d(x, w.contiguous(memory_format=torch.channels_last), b, padding=1)
        if relu:
            y = y.relu_()
        return self.maxpool2x2(y, save_argmax) if pool else (to_channels_last(y), None)

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
        if relu:
            assert y is not None, "conv3x3_backward with relu needs y"
            grad = torch.where(y <= 0, 0, grad)
        if pool:
            assert argmax is not None, "conv3x3_backward with pool needs the argmax"
            grad = packed.scatter(grad, argmax, x.shape[2], x.shape[3])
        dx, dw, db = torch.ops.aten.convolution_backward(
            grad, x, w.contiguous(memory_format=torch.channels_last), [w.shape[0]],
            [1, 1], [1, 1], [1, 1], False, [0, 0], 1, list(needs),
        )  # fmt: skip
        return (
            to_channels_last(dx) if needs[0] else None,
            dw.contiguous() if needs[1] else None,
            db if needs[2] else None,
        )

    def maxpool2x2(self, x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
        if not save_argmax:
            return to_channels_last(F.max_pool2d(x, 2)), None
        y, indices = F.max_pool2d(x, 2, return_indices=True)
        return to_channels_last(y), packed.pack(indices, x.shape[3])

    def maxpool2x2_backward(self, grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
        return packed.scatter(grad, argmax, height, width)
