"""torch's 3x3 convolution and 2x2 pool, each computed by an op (``vggfast.accelerate``).

They differ from torch's classes by ``forward`` alone, and return what torch would return in the
memory layout in which torch would return it, so that a ``view`` that worked goes on working.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from vggfast import ops
from vggfast.nn import shapes
from vggfast.ops._check import DTYPES

_DEVICES = ("cpu", "cuda")


class ServedConv2d(nn.Conv2d):
    """A convolution whose 3x3 form of stride 1 is served by ``ops.conv3x3``.

    Attributes:
        backend: the backend forced for the op, or None for the automatic choice.
        compute_dtype: the dtype it runs in outside ``torch.autocast``, or None for the input's.
    """

    backend: str | None = None
    compute_dtype: torch.dtype | None = None

    def forward(self, input: Tensor) -> Tensor:
        # Some change a module's padding mode or dilation later on.
        if not (takes(input) and input.dim() == 4 and shapes.keeps_size(self, 3)):
            return super().forward(input)
        back = lowered_from(input, self.compute_dtype)
        with computing(input, back, self.compute_dtype):
            y = ops.conv3x3(input, self.weight, self.bias, backend=self.backend)
        return as_given(y, back, channels_last(input, self.weight))


class ServedMaxPool2d(nn.MaxPool2d):
    """A max-pool whose 2x2 form of stride 2 is served by ``ops.maxpool2x2``."""

    backend: str | None = None
    compute_dtype: torch.dtype | None = None  # as its input: a maximum rounds nothing

    def forward(self, input: Tensor) -> Tensor:
        if not (takes(input) and input.dim() == 4 and shapes.halves_size(self)):
            return super().forward(input)
        y = ops.maxpool2x2(input, backend=self.backend)
        return as_given(y, None, channels_last(input))


def takes(x: object) -> bool:
    """Whether the ops can take ``x``; what they cannot, torch's own layers get.

    That is a tracer's proxy, a tensor of another device or dtype, and anything inside a transform
    of ``torch.func``, whose batching and higher derivatives the ops do not have.
    """
    return (
        isinstance(x, Tensor)
        and x.dtype in DTYPES
        and x.device.type in _DEVICES
        # A compiler cannot trace the question.
        and (torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active())
    )


def lowered_from(x: Tensor, compute_dtype: torch.dtype | None) -> torch.dtype | None:
    """The dtype to come back to after computing in another one; None where x's own is kept.

    Inside ``torch.autocast`` its dtype counts, and float64 is never lowered, as there.
    """
    if compute_dtype is None or x.dtype is torch.float64:
        return None
    return None if torch.is_autocast_enabled(x.device.type) else x.dtype


def computing(
    x: Tensor, back: torch.dtype | None, compute_dtype: torch.dtype | None
) -> AbstractContextManager[object]:
    """Where the ops run in ``compute_dtype``, if there is a dtype to come ``back`` to."""
    if back is None:
        return nullcontext()
    return torch.autocast(x.device.type, dtype=compute_dtype)


def channels_last(*tensors: Tensor) -> bool:
    """Whether torch would give a result of these in channels_last."""
    return any(
        t.dim() == 4
        and t.is_contiguous(memory_format=torch.channels_last)
        and not t.is_contiguous()
        for t in tensors
    )


def as_given(y: Tensor, dtype: torch.dtype | None, last: bool) -> Tensor:
    """``y`` in this dtype (None: its own), contiguous unless ``last``."""
    if dtype is not None and y.is_floating_point():
        y = y.to(dtype)
    return y if last or y.dim() != 4 else y.contiguous()
