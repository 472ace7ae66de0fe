"""The calls that are tuned: one op of one layer at one batch, its data, and how to run it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast import backends, configs
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.kernels import tuned

OPS = ("fprop", "dgrad", "wgrad")


@dataclass(frozen=True)
class Problem:
    """An op of a convolution's shape. ``names``: the layers that have it, for the reader."""

    op: str
    layer: configs.Layer  # its name is empty: equal shapes are one problem
    batch: int
    dtype: torch.dtype
    names: tuple[str, ...]

    @property
    def title(self) -> str:
        layer = self.layer
        pool = " pool" if layer.pool and self.op == "fprop" else ""
        return (
            f"{self.op} {self.batch}x{layer.h}x{layer.w} {layer.c_in}->{layer.c_out}{pool} "
            f"({', '.join(self.names)})"
        )

    @property
    def terms(self) -> int:
        """Products in a sum of the result."""
        layer = self.layer
        per_pixel = {"fprop": 9 * layer.c_in, "dgrad": 9 * layer.c_out}
        return per_pixel.get(self.op) or self.batch * layer.h * layer.w


class Data:
    """Random tensors of a problem on a device, and the op on them: ours, and torch's."""

    def __init__(self, problem: Problem, device: torch.device, *, filled: bool = True) -> None:
        self._problem, self._device, self._filled = problem, device, filled

    def _normal(self, *size: int) -> Tensor:
        make = torch.randn if self._filled else torch.empty
        made: Tensor = make(size, dtype=self._problem.dtype, device=self._device)
        return made

    def _map(self, c: int) -> Tensor:
        n, layer = self._problem.batch, self._problem.layer
        return self._normal(n, layer.h, layer.w, c).permute(0, 3, 1, 2)

    @cached_property
    def x(self) -> Tensor:
        return self._map(self._problem.layer.c_in)

    @cached_property
    def grad(self) -> Tensor:
        return self._map(self._problem.layer.c_out)

    @cached_property
    def w(self) -> Tensor:
        layer = self._problem.layer
        w = self._normal(layer.c_out, layer.c_in, 3, 3)
        return w.mul_((2 / (9 * layer.c_in)) ** 0.5)

    @cached_property
    def b(self) -> Tensor:
        return self._normal(self._problem.layer.c_out)

    def ours(self) -> Tensor:
        """The op by the triton backend; gradients without the ReLU and pool, which have no tile."""
        triton, layer = backends.get("triton"), self._problem.layer
        if self._problem.op == "fprop":
            y, _ = triton.conv3x3(self.x, self.w, self.b, layer.relu, layer.pool, False)
            return y
        is_dgrad = self._problem.op == "dgrad"
        # Each gradient needs only the shape of one of the two maps.
        x = self._shaped(layer.c_in) if is_dgrad else self.x
        needs = (is_dgrad, not is_dgrad, False)
        dx, dw, _ = triton.conv3x3_backward(self.grad, x, self.w, None, None, False, False, needs)
        result = dx if is_dgrad else dw
        assert result is not None
        return result

    def _shaped(self, c: int) -> Tensor:
        n, layer = self._problem.batch, self._problem.layer
        one = channels_last_empty(1, 1, 1, 1, self.grad)
        return one.expand(n, c, layer.h, layer.w)

    def torchs(self) -> Tensor:
        """The same by torch's own kernels, TF32 off."""
        layer = self._problem.layer
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=False, allow_tf32=False
        ):
            if self._problem.op == "fprop":
                y = F.conv2d(self.x, self.w, self.b, padding=1)
                y = y.relu_() if layer.relu else y
                return to_channels_last(F.max_pool2d(y, 2) if layer.pool else y)
            is_dgrad = self._problem.op == "dgrad"
            x = self._shaped(layer.c_in) if is_dgrad else self.x
            dx, dw, _ = torch.ops.aten.convolution_backward(
                self.grad, x, self.w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                [is_dgrad, not is_dgrad, False],
            )  # fmt: skip
            result: Tensor = dx if is_dgrad else dw
            return result


def problems(
    nets: tuple[str, ...],
    batches: tuple[int, ...],
    ops: tuple[str, ...],
    dtype: torch.dtype,
    size: int = 224,
    only: tuple[str, ...] | None = None,
) -> list[Problem]:
    """The different calls of the networks' 3x3 convolutions, batches in the order given.

    ``only``: names of layers, if not all. The first layer's input needs no gradient, and a pool
    makes a difference to fprop alone.
    """
    found: dict[tuple[int, str, configs.Layer], list[str]] = {}
    for batch in dict.fromkeys(batches):
        for op in ops:
            for layer, name in _layers(nets, size, op):
                if only is None or name in only:
                    found.setdefault((batch, op, layer), []).append(name)
    return [
        Problem(op, layer, batch, dtype, tuple(dict.fromkeys(names)))
        for (batch, op, layer), names in found.items()
    ]


def _layers(nets: tuple[str, ...], size: int, op: str) -> Iterator[tuple[configs.Layer, str]]:
    for net in nets:
        for layer in configs.conv_layers(net, size):
            if layer.op != "conv3x3" or (op == "dgrad" and layer.name == "conv1_1"):
                continue
            pool = layer.pool and op == "fprop"
            shape = configs.Layer(
                "", "conv3x3", layer.c_in, layer.c_out, layer.h, layer.w, layer.relu, pool
            )
            yield shape, layer.name


def asked(problem: Problem, device: torch.device) -> tuned.Query | None:
    """What the launcher of a problem asks the tables; None if it chooses no tile."""
    data = Data(problem, device, filled=False)
    with tuned.asking() as noted:
        data.ours()
    return noted[0] if noted else None
