"""``FusedSequential``: an ``nn.Sequential`` of plain torch modules, run with fused ops.

The children stay what torchvision has (``Conv2d``, ``ReLU``, ``MaxPool2d``, ...), so names, state
dicts, indexing, slicing and hooks work; only ``forward`` differs: it walks the children and
serves each run conv (+ batch norm in eval) (+ ReLU) (+ 2x2 pool) with one op. Where gradients are
wanted and the backend fuses them, a run of such 3x3 layers with ReLUs is one op, a chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vggfast import ops
from vggfast.nn import match
from vggfast.nn.bf16_linear import Bf16Linear


class _Layer(NamedTuple):
    """A 3x3 convolution and what fuses with it."""

    w: Tensor
    b: Tensor | None
    relu: bool
    pool: bool
    used: int  # modules


class FusedSequential(nn.Sequential):
    """A Sequential whose convolution runs are served by ``vggfast.ops``.

    Args:
        *args: modules, or one ``OrderedDict`` of them, as for ``nn.Sequential``.
        backend: the backend forced for every op, or None for the automatic choice.
        recompute_first: in training keep no output of the first layer, whose input is small, but
            make it again in the backward pass: of VGG-D's kept maps a third less. It needs a
            backend that fuses chains (``ops.conv3x3_chain``) and a chain at the beginning.

    A module with a hook ends a fusion, so that hooks see the values they would see in torch.
    A slice is again a ``FusedSequential`` with the same options.
    """

    backend: str | None
    recompute_first: bool = False

    def __init__(
        self, *args: Any, backend: str | None = None, recompute_first: bool = False
    ) -> None:
        super().__init__(*args)
        self.backend = backend
        self.recompute_first = recompute_first

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(part, FusedSequential):
            part.backend = self.backend
            part.recompute_first = self.recompute_first
        return part

    def forward(self, input: Tensor) -> Tensor:
        return self.run(input, 0, len(self))

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The children ``start`` to ``stop`` - 1 alone on x; nothing fuses across either end."""
        children = list(self)[start:stop]
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
        if match.is_conv(children[i], 1):
            w, b, relu, used = _convolution(children, i)
            return ops.conv1x1(x, w, b, relu=relu, backend=self.backend), used
        if torch.is_grad_enabled() and ops.fuses_chains(x, self.backend):
            run = _chain(children, i, (x.shape[2], x.shape[3]))
            if len(run) > 1 and _differentiated(x, run):
                weights, biases, _, pools, used_each = zip(*run, strict=True)
                y = ops.conv3x3_chain(
                    x, weights, biases, pools,
                    recompute_first=self.recompute_first and i == 0, backend=self.backend,
                )  # fmt: skip
                return y, sum(used_each)
        one = _layer(children, i, (x.shape[2], x.shape[3]))
        y = ops.conv3x3(x, one.w, one.b, relu=one.relu, pool=one.pool, backend=self.backend)
        return y, one.used


def _convolution(children: list[nn.Module], i: int) -> tuple[Tensor, Tensor | None, bool, int]:
    """Weights and bias of the convolution at ``i``, whether a ReLU follows, the modules used."""
    conv = children[i]
    assert isinstance(conv, nn.Conv2d)
    w, b, used = conv.weight, conv.bias, 1
    norm = _at(children, i + used)
    if match.is_foldable_norm(norm):
        assert isinstance(norm, nn.BatchNorm2d)
        w, b = _fold(w, b, norm)
        used += 1
    relu = match.is_relu(_at(children, i + used))
    return w, b, relu, used + relu


def _layer(children: list[nn.Module], i: int, size: tuple[int, int]) -> _Layer:
    """The layer of the 3x3 convolution at ``i`` on a map of (H, W) = ``size``."""
    w, b, relu, used = _convolution(children, i)
    # The op fuses a pool of odd maps too (floor), but a map of one row or column has no window.
    pool = match.is_pool(_at(children, i + used)) and min(size) >= 2
    return _Layer(w, b, relu, pool, used + pool)


def _chain(children: list[nn.Module], i: int, size: tuple[int, int]) -> list[_Layer]:
    """The layers from ``i`` on that make a chain: 3x3 convolutions with ReLUs, side by side."""
    run: list[_Layer] = []
    while match.is_conv(_at(children, i), 3):
        layer = _layer(children, i, size)
        if not layer.relu:
            break
        run.append(layer)
        i += layer.used
        if layer.pool:
            size = (size[0] // 2, size[1] // 2)
    return run


def _differentiated(x: Tensor, run: list[_Layer]) -> bool:
    wanted = (x, *(t for layer in run for t in (layer.w, layer.b) if t is not None))
    return any(t.requires_grad for t in wanted)


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
