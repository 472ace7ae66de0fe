"""A ``FusedSequential`` for other people's modules, which may ask for any layout."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vggfast.nn import match
from vggfast.nn.sequential import FusedSequential
from vggfast.nn.served import as_given, channels_last, computing, lowered_from, takes


class ServedSequential(FusedSequential):
    """What ``vggfast.accelerate`` makes of an ``nn.Sequential``: the same children, fused ops.

    Between ops maps are channels_last, and in ``compute_dtype`` if there is one; a module that
    might notice, whoever has a hook, and the caller get them as torch would have made them.
    """

    compute_dtype: torch.dtype | None = None

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(part, ServedSequential):
            part.compute_dtype = self.compute_dtype
        return part

    def run(self, x: Any, start: int, stop: int) -> Any:
        """The children ``start`` to ``stop`` - 1 alone on x; nothing fuses across either end."""
        children = list(self)[start:stop]
        ours = last = False  # whether x is a result of the ops; whether torch's is channels_last
        back: torch.dtype | None = None
        i = 0
        while i < len(children):
            m = children[i]
            if takes(x) and match.is_served(m, x.dim()):
                if not ours:
                    last, back = _layout(x, m), lowered_from(x, self.compute_dtype)
                    ours = True
                with computing(x, back, self.compute_dtype):
                    x, used = self._step(x, children, i)
                i += used
                continue
            if ours and not (match.any_layout(m) and (back is None or match.any_dtype(m))):
                x, ours = as_given(x, back, last), False
            x = m(x)
            i += 1
        return as_given(x, back, last) if ours else x


def _layout(x: Tensor, m: nn.Module) -> bool:
    """Whether torch's module ``m`` would return channels_last for ``x``."""
    if isinstance(m, nn.Conv2d):
        return channels_last(x, m.weight)
    return channels_last(x)
