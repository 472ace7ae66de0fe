"""The timed call itself against float64: the same weights, the same images, the real size.

What a contender returns for the images that it is timed on is compared with the float64 oracle
before it is timed. Of a batch the first and the last image are taken (with --quick the last): an
image of VGG-E at 224x224 takes a CPU one to two seconds in float64.

The bound is fixed, not twice a baseline's error, since each engine has its own algorithms:

- fp32: ``FP32``. Any fp32 algorithm in use stays below, Winograd F(6x6, 3x3) included (up to 3e-5
  end to end); rounding the FC weights alone to fp16 does not (1.6e-4).
- bf16, fp16, and TF32 on a GPU: ``LAYERS`` x sqrt(number of layers) x u, each layer
  rounding its weights and maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.numerics import Check
from harness.options import Options
from vggfast import reference

FP32 = 1e-4
LAYERS = 3.0
TF32_EPS = (
    2.0**-10
)  # what fp32 convolutions on a GPU round their operands to, where torch allows it


class _Wide(Mapping[str, Tensor]):
    """A state dict in float64, a tensor at a time: all of VGG-E's would take 1.2 GB."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Tensor:
        return self._state[name].double()

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


@dataclass(frozen=True)
class Oracle:
    """The float64 logits of some rows of a batch, and the relative error allowed there."""

    rows: tuple[int, ...]
    logits: Tensor
    bound: float

    def errors(self, y: Tensor) -> reference.Errors:
        """How far ``y``, logits of the whole batch, is off; infinitely if of another shape."""
        if y.dim() != 2 or y.shape[0] <= max(self.rows) or y.shape[1:] != self.logits.shape[1:]:
            return reference.Errors(float("inf"), float("inf"), float("inf"))
        return reference.errors(y.detach()[list(self.rows)].to(self.logits.device), self.logits)

    def check(self, y: Tensor, batch: int, size: int) -> Check:
        """Ours, as a check of the run's numerics."""
        case = f"({batch}, 3, {size}, {size}), images {self.rows} against float64"
        return Check(
            "network",
            case,
            f"logits of the timed call, batch {batch}",
            self.errors(y),
            0.0,
            self.bound,
        )


def oracle(state: Mapping[str, Tensor], x: Tensor, options: Options) -> Oracle:
    """For the network with these weights on these images."""
    last = x.shape[0] - 1
    rows = (last,) if options.quick else tuple(sorted({0, last}))
    with torch.no_grad():
        wide = x[list(rows)].double()
        logits = reference.network(options.net, _Wide(state), wide, crop=options.crop)
    depth = sum(name.endswith("weight") for name in state)
    return Oracle(rows, logits, allowed(x.dtype, depth, x.is_cuda))


def allowed(dtype: torch.dtype, layers: int, on_gpu: bool = False) -> float:
    """The relative error that a result in this dtype may have."""
    eps = torch.finfo(dtype).eps
    if dtype == torch.float32:
        if not (on_gpu and torch.backends.cudnn.allow_tf32):
            return FP32
        eps = TF32_EPS
    return float(LAYERS * layers**0.5 * eps / 2)
