"""``explain``: which layers of a module are fused into which kernel, which are not, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from vggfast import backends
from vggfast.acceleration.reasons import (
    odd_tensor,
    other_class,
    replacement,
    why_not_conv,
    why_not_pool,
)  # fmt: skip
from vggfast.backends import Call
from vggfast.errors import BackendError
from vggfast.nn import FusedSequential, ServedConv2d, ServedMaxPool2d, ServedSequential, match
from vggfast.nn.sequential import _convolution, _layer

_EVEN = (2, 2)  # a map that any pool fits on


class Row(NamedTuple):
    """A layer and what runs it; ``fused`` where an op of vggfast does."""

    name: str
    layer: str
    by: str
    fused: bool


def explain(
    device: nn.Module | str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    weights: str = "fp32",
) -> str:
    """A table of a module's layers; without a module, of every op (``vggfast.backends.explain``).

    Of a module it shows for each layer the op and the backend that serve it, or why torch does. A
    module that was not accelerated is explained as ``vggfast.accelerate`` would serve it. What
    fuses follows the module's mode (batch norm folds in eval) and its hooks, as they are now.

    Args:
        device: a module; or the device type whose ops to explain.
        dtype: of the activations; of a module's layers that have a dtype to compute in, theirs.
        backend: the backend forced; by default a layer's own, or the environment's choice.
        weights: how FC weights are stored, for a table of ops.
    """
    if not isinstance(device, nn.Module):
        return backends.explain(device, dtype, backend, weights)
    rows = list(_rows(device, "", _Options(dtype, backend)))
    done = any(isinstance(m, (FusedSequential, ServedConv2d)) for m in device.modules())
    fused = sum(row.fused for row in rows)
    verb = "run" if done else "would run"
    head = f"{type(device).__name__}: {fused} of {len(rows)} layers {verb} on vggfast's ops"
    if not done:
        head += ", once vggfast.accelerate is called"
    names = max((len(row.name) for row in rows), default=0)
    layers = max((len(row.layer) for row in rows), default=0)
    lines = [f"  {row.name:<{names}}  {row.layer:<{layers}}  {row.by}" for row in rows]
    return "\n".join([head, *(line.rstrip() for line in lines)])


class _Options(NamedTuple):
    dtype: torch.dtype
    backend: str | None

    def server(self, m: nn.Module, op: str, c_in: int, c_out: int, holder: nn.Module) -> str:
        """The backend that serves an op on the module's device."""
        tensors = [*m.parameters(), *holder.parameters()]
        kind = tensors[0].device.type if tensors else "cpu"
        dtype = getattr(holder, "compute_dtype", None) or self.dtype
        try:
            chosen = backends.select(
                Call(op, kind, dtype, c_in, c_out), self.backend or getattr(holder, "backend", None)
            )
        except BackendError as error:
            return f"no backend: {error}"
        return f"{chosen.name}, {str(dtype).removeprefix('torch.')}"


def _rows(m: nn.Module, name: str, options: _Options) -> Iterator[Row]:
    """The rows of a module: itself if it has no children, else theirs."""
    if isinstance(m, FusedSequential) or replacement(m) is ServedSequential:
        yield from _sequence(m, name, options)
    elif not m._modules or isinstance(m, (nn.Conv2d, nn.MaxPool2d)):
        yield _alone(m, name, options)
    else:
        for key, child in m._modules.items():
            if child is not None:
                yield from _rows(child, _joined(name, key), options)


def _sequence(m: nn.Module, name: str, options: _Options) -> Iterator[Row]:
    keys = [_joined(name, key) for key in m._modules]
    children = [child for child in m._modules.values() if child is not None]
    i = 0
    while i < len(children):
        child = children[i]
        op, used = _op(children, i)
        if op is None:
            yield from _rows(child, keys[i], options)
            i += 1
            continue
        widths = _widths(child)
        by = f"{op} ({options.server(child, op.split()[0], *widths, m)})"
        yield Row(keys[i], _short(child), by, True)
        for at in range(i + 1, i + used):
            yield Row(keys[at], _short(children[at]), f"in {keys[i]}", True)
        i += used


def _op(children: list[nn.Module], i: int) -> tuple[str | None, int]:
    """The op that a FusedSequential runs at ``i`` with what is fused into it, and the modules."""
    m = children[i]
    if match.is_conv(m, 3):
        layer = _layer(children, i, _EVEN)
        norm = layer.used > 1 + layer.relu + layer.pool
        parts = (("batch norm", norm), ("ReLU", layer.relu), ("pool", layer.pool))
        return " + ".join(["conv3x3", *(p for p, there in parts if there)]), layer.used
    if match.is_conv(m, 1):
        _, _, relu, used = _convolution(children, i)
        norm = used > 1 + relu
        return "conv1x1" + " + batch norm" * norm + " + ReLU" * relu, used
    if match.is_pool(m):
        return "maxpool2x2", 1
    if match.is_lrn(m):
        return "lrn", 1
    if match.is_linear(m):
        relu = i + 1 < len(children) and match.is_relu(children[i + 1])
        return "linear" + " + ReLU" * relu, 1 + relu
    return None, 1


def _alone(m: nn.Module, name: str, options: _Options) -> Row:
    hooked = ", alone: it has hooks" if match.hooked(m) else ""
    kind = replacement(m)
    if kind in (ServedConv2d, ServedMaxPool2d):
        op = "conv3x3" if kind is ServedConv2d else "maxpool2x2"
        by = f"{op} ({options.server(m, op, *_widths(m), m)}){hooked}"
        return Row(name, _short(m), by, True)
    return Row(name, _short(m), f"torch: {_why_not(m)}", False)


def _why_not(m: nn.Module) -> str:
    if isinstance(m, nn.Conv2d):
        reason = why_not_conv(m)
        return "a convolution" if reason is None else reason
    if isinstance(m, nn.MaxPool2d):
        return str(why_not_pool(m))
    if match.hooked(m):
        return "it has hooks"
    if type(m) is nn.BatchNorm2d:
        if m.running_mean is None or m.training:
            return "batch statistics do not fold into weights"
        return "no convolution before it in a Sequential"
    if type(m) is nn.ReLU:
        return "no layer before it in a Sequential to fuse with"
    if type(m) is nn.Linear:
        return odd_tensor(m) or "not in a Sequential"
    return "no op for it" if type(m).__module__.startswith("torch.nn") else other_class(m)


def _widths(m: nn.Module) -> tuple[int, int]:
    sizes: Any = m
    if isinstance(m, nn.Conv2d):
        return sizes.in_channels, sizes.out_channels
    if isinstance(m, nn.Linear):
        return sizes.in_features, sizes.out_features
    return 64, 64


def _short(m: nn.Module) -> str:
    if isinstance(m, nn.Conv2d):
        k = "x".join(map(str, m.kernel_size))
        return f"{type(m).__name__.removeprefix('Served')} {m.in_channels}->{m.out_channels}, {k}"
    if isinstance(m, nn.Linear):
        return f"{type(m).__name__} {m.in_features}->{m.out_features}"
    return type(m).__name__.removeprefix("Served")


def _joined(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key
