"""``FusedSequential``: an ``nn.Sequential`` of plain torch modules, run with fused ops.

The children stay what torchvision has (``Conv2d``, ``ReLU``, ``MaxPool2d``, ...), so names, state
dicts, indexing, slicing and hooks work; only ``forward`` differs: it walks the children and
serves each run conv (+ batch norm in eval) (+ ReLU) (+ 2x2 pool) with one op.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vggfast import ops
from vggfast.nn import match
from vggfast.nn.bf16_linear import Bf16Linear


class FusedSequential(nn.Sequential):
    """A Sequential whose convolution runs are served by ``vggfast.ops``.

    Args:
        *args: modules, or one ``OrderedDict`` of them, as for ``nn.Sequential``.
        backend: the backend forced for every op, or None for the automatic choice.

    A module with a hook ends a fusion, so that hooks see the values they would see in torch.
    A slice is again a ``FusedSequential`` with the same backend.
    """

    backend: str | None

    def __init__(self, *args: Any, backend: str | None = None) -> None:
        super().__init__(*args)
        self.backend = backend

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(part, FusedSequential):
            part.backend = self.backend
        return part

    def forward(self, input: Tensor) -> Tensor:
        x = input
        children = list(self)
        i = 0
        while i < len(children):
            x, used = self._step(x, children, i)
            i += used
        return x

    def _step(self, x: Tensor, children: list[nn.Module], i: int) -> tuple[Tensor, int]:
        """Run the module at ``i`` and those that fuse with it; the result and their number."""
        m = children[i]
        if x.dim() == 4:
            if match.is_conv(m, 3) or match.is_conv(m, 1):
                return self._conv(x, children, i)
            if match.is_pool(m):
                return ops.maxpool2x2(x, backend=self.backend), 1
            if match.is_lrn(m):
                assert isinstance(m, nn.LocalResponseNorm)
                y = ops.lrn(x, m.size, m.k, m.alpha / m.size, m.beta, backend=self.backend)
                return y, 1
        if x.dim() == 2 and match.is_linear(m):
            if isinstance(m, Bf16Linear):
                m.refuse_training()
            relu = match.is_relu(_at(children, i + 1))
            y = ops.linear(x, m.weight, m.bias, relu=relu, backend=self.backend)  # type: ignore[arg-type]
            return y, 1 + relu
        return m(x), 1

    def _conv(self, x: Tensor, children: list[nn.Module], i: int) -> tuple[Tensor, int]:
        conv = children[i]
        assert isinstance(conv, nn.Conv2d)
        w, b, used = conv.weight, conv.bias, 1
        norm = _at(children, i + used)
        if match.is_foldable_norm(norm):
            assert isinstance(norm, nn.BatchNorm2d)
            w, b = _fold(w, b, norm)
            used += 1
        relu = match.is_relu(_at(children, i + used))
        used += relu
        if conv.kernel_size == (1, 1):
            return ops.conv1x1(x, w, b, relu=relu, backend=self.backend), used
        # The op fuses a pool of odd maps too (floor), but a map of one row or column has no window.
        pool = match.is_pool(_at(children, i + used)) and min(x.shape[2:]) >= 2
        return ops.conv3x3(x, w, b, relu=relu, pool=pool, backend=self.backend), used + pool


def _at(children: list[nn.Module], i: int) -> nn.Module:
    return children[i] if i < len(children) else _NOTHING


_NOTHING = nn.Identity()


def _fold(w: Tensor, b: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weights and bias of a convolution with the batch normalisation after it folded in.

    gamma (conv + b - mean) / sqrt(var + eps) + beta, with s = gamma / sqrt(var + eps):
    weights s * w, bias s * (b - mean) + beta.
    """
    assert norm.running_mean is not None, "match.is_foldable_norm has checked the statistics"
    assert norm.running_var is not None, "match.is_foldable_norm has checked the statistics"
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean if b is None else b - norm.running_mean
    bias = scale * shift if norm.bias is None else scale * shift + norm.bias
    return (w * scale.view(-1, 1, 1, 1)).to(w.dtype), bias.to(w.dtype)
