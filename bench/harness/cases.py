"""The work that is checked and timed: one fused layer, ours and in plain torch, and its data.

Plain torch here calls ``torch.nn.functional`` and nothing of ``vggfast.ops``: it is the baseline
that a user of torch has, and its error is the yardstick of the numerics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.nets import TorchLRN
from vggfast import ops, reference
from vggfast.configs import Layer

Function = Callable[..., Tensor]  # (x, w, b) -> y, or (x) -> y where the layer has no weights
LRN = {"n": 5, "k": 2.0, "alpha": 1e-4, "beta": 0.75}


@dataclass(frozen=True)
class Group:
    """Layers of one network that have the same shape: run once, counted ``count`` times."""

    layer: Layer
    names: tuple[str, ...]

    @property
    def count(self) -> int:
        return len(self.names)

    @property
    def name(self) -> str:
        return ", ".join(self.names)


def group(layers: list[Layer]) -> list[Group]:
    """Layers of equal shape together, in the order of their first one."""
    found: dict[Layer, list[str]] = {}
    for layer in layers:
        found.setdefault(replace(layer, name=""), []).append(layer.name)
    return [Group(replace(key, name=names[0]), tuple(names)) for key, names in found.items()]


def ours(layer: Layer, backend: str | None) -> Function:
    """The layer as one vggfast op."""
    if layer.op == "conv3x3":
        return lambda x, w, b: ops.conv3x3(
            x, w, b, relu=layer.relu, pool=layer.pool, backend=backend
        )
    if layer.op == "conv1x1":
        return _pooled(
            layer, lambda x, w, b: ops.conv1x1(x, w, b, relu=layer.relu, backend=backend),
            lambda y: ops.maxpool2x2(y, backend=backend),
        )  # fmt: skip
    if layer.op == "linear":
        return lambda x, w, b: ops.linear(x, w, b, relu=layer.relu, backend=backend)
    if layer.op == "lrn":
        return lambda x: ops.lrn(x, **LRN, backend=backend)  # type: ignore[arg-type]
    return lambda x: ops.maxpool2x2(x, backend=backend)


def plain(layer: Layer) -> Function:
    """The layer as a user of torch writes it: convolution with bias, ReLU in place, pool."""
    if layer.op in ("conv3x3", "conv1x1"):
        padding = 1 if layer.op == "conv3x3" else 0
        return _pooled(
            layer, lambda x, w, b: _relu(layer, F.conv2d(x, w, b, padding=padding)),
            lambda y: F.max_pool2d(y, 2),
        )  # fmt: skip
    if layer.op == "linear":
        return lambda x, w, b: _relu(layer, F.linear(x, w, b))
    if layer.op == "lrn":  # torch divides alpha by the window, the paper's formula does not
        return TorchLRN(5, 5 * LRN["alpha"], LRN["beta"], LRN["k"])
    return lambda x: F.max_pool2d(x, 2)


def oracle(layer: Layer) -> Function:
    """The layer by ``vggfast.reference``, to be given float64."""
    if layer.op == "conv3x3":
        return lambda x, w, b: reference.conv3x3(x, w, b, layer.relu, layer.pool)
    if layer.op == "conv1x1":
        return _pooled(
            layer, lambda x, w, b: reference.conv1x1(x, w, b, layer.relu), reference.maxpool2x2
        )
    if layer.op == "linear":
        return lambda x, w, b: reference.linear(x, w, b, layer.relu)
    if layer.op == "lrn":
        return lambda x: reference.lrn(x, **LRN)  # type: ignore[arg-type]
    return reference.maxpool2x2


def _pooled(layer: Layer, conv: Function, pool: Callable[[Tensor], Tensor]) -> Function:
    return (lambda x, w, b: pool(conv(x, w, b))) if layer.pool else conv


def _relu(layer: Layer, y: Tensor) -> Tensor:
    return F.relu_(y) if layer.relu else y


def inputs(
    layer: Layer, n: int, h: int, w: int, dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[Tensor, ...]:
    """Fresh random (x, w, b), or (x,) for a layer without weights; maps in channels_last memory.

    x has unit variance and w keeps it (He et al. 2015), so that every layer is tested in the
    range it works in; b is large enough that a wrong bias shows.
    """
    g = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=device)

    if layer.op == "linear":
        x = normal(n, layer.c_in).to(dtype)
        weight = normal(layer.c_out, layer.c_in) * (2 / layer.c_in) ** 0.5
        return x, weight.to(dtype), (0.2 * normal(layer.c_out)).to(dtype)
    x = normal(n, layer.c_in, h, w).to(dtype).contiguous(memory_format=torch.channels_last)
    if layer.op not in ("conv3x3", "conv1x1"):
        return (x,)
    k = 3 if layer.op == "conv3x3" else 1
    weight = normal(layer.c_out, layer.c_in, k, k) * (2 / (k * k * layer.c_in)) ** 0.5
    return x, weight.to(dtype), (0.2 * normal(layer.c_out)).to(dtype)


def before_activation(layer: Layer, args: tuple[Tensor, ...]) -> Tensor | None:
    """What enters the layer's ReLU and pool, or None where no rounding decides (no ReLU)."""
    if not layer.relu:
        return None
    x, w, b = args
    if layer.op == "linear":
        return F.linear(x, w, b)
    return F.conv2d(x, w, b, padding=1 if layer.op == "conv3x3" else 0)
