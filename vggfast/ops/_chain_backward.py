"""The gradient of ``conv3x3_chain``: layer by layer from the top, each layer's maps let go of."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vggfast.ops._chain_steps import DZ, STEP, fuses

Size = tuple[int, int]


@dataclass
class Walk:
    """What is known of the layers ``first``..., and the gradient on its way down.

    ``gradient`` belongs to the output y of the layer it has come to, or, where the backend fuses
    and the epilogue of the layer above has done its work (``is_dz``), to the sums before its ReLU.
    """

    gradient: Tensor
    x: Tensor | None  # None where neither a dw nor a recomputation asks for it
    x_size: list[int]
    weights: list[Tensor]
    first_bias: Tensor | None  # for the recomputation
    ys: list[Tensor | None]
    codes: list[Tensor | None]  # packed argmaxes; None without a pool
    pools: list[bool]
    sizes: list[Size]  # (H, W) of each layer's map, before its pool
    first: int  # the lowest layer that wants a gradient
    recompute: bool  # the first layer's output was not kept
    x_needs: bool
    w_needs: list[bool]
    b_needs: list[bool]
    backend: str | None
    is_dz: bool = False
    dws: list[Tensor | None] = field(default_factory=list)
    dbs: list[Tensor | None] = field(default_factory=list)

    def run(self) -> tuple[Tensor | None, list[Tensor | None], list[Tensor | None]]:
        """dx, the dw and the db of every layer; None where not asked for."""
        layers = len(self.weights)
        self.dws, self.dbs = [None] * layers, [None] * layers
        fused = fuses(self.gradient.device.type, self.gradient.dtype, self.backend)
        for i in reversed(range(self.first, layers)):
            if i == 1 and self.recompute:
                self._recompute()
            if fused and i > self.first:
                self._fused_step(i)
            else:
                self._plain_step(i)
        return self.gradient if self.x_needs else None, self.dws, self.dbs

    def _recompute(self) -> None:
        assert self.x is not None, "x is kept for the recomputation"
        pool = self.pools[0]
        # In the dtype of the forward pass, whatever autocast is on now.
        with _no_autocast(self.x.device.type):
            y, code = torch.ops.vggfast.conv3x3.default(
                self.x, self.weights[0], self.first_bias, True, pool, pool, self.backend
            )
        self.ys[0], self.codes[0] = y, code if pool else None

    def _fused_step(self, i: int) -> None:
        """To the dz of layer i - 1, in the epilogue of layer i's dgrad."""
        if not self.is_dz:
            self.gradient, db = DZ(
                self.gradient, self.ys[i], self.codes[i], *self.sizes[i], self.b_needs[i],
                self.backend,
            )  # fmt: skip
            self.dbs[i] = db if self.b_needs[i] else None
            self.ys[i] = self.codes[i] = None
            self.is_dz = True
        needs = [self.w_needs[i], self.b_needs[i - 1]]
        self.gradient, dw, db = STEP(
            self.gradient, self.ys[i - 1], self.weights[i], self.codes[i - 1], *self.sizes[i - 1],
            needs, self.backend,
        )  # fmt: skip
        self.dws[i], self.dbs[i - 1] = dw if needs[0] else None, db if needs[1] else None
        self.ys[i - 1] = self.codes[i - 1] = None

    def _plain_step(self, i: int) -> None:
        """To the gradient of layer i's input, as layer i alone would."""
        through = not self.is_dz  # ReLU and pool are still to be passed
        needs = [i > self.first or self.x_needs, self.w_needs[i], through and self.b_needs[i]]
        if any(needs):
            source = self.x if i == 0 else self.ys[i - 1]
            self.gradient, dw, db = torch.ops.vggfast.conv3x3_backward.default(
                self.gradient,
                source if needs[1] else None,
                [self.x_size[0], self.weights[i].shape[1], *self.sizes[i]],
                self.weights[i],
                self.ys[i] if through else None,
                self.codes[i] if through else None,
                through,
                through and self.pools[i],
                needs,
                self.backend,
            )
            self.dws[i] = dw if needs[1] else None
            if needs[2]:
                self.dbs[i] = db
        self.ys[i] = self.codes[i] = None


def _no_autocast(device: str) -> AbstractContextManager[object]:
    if device not in ("cpu", "cuda"):  # there is no rule for it either: ops/_library.py
        return nullcontext()
    return torch.autocast(device, enabled=False)
