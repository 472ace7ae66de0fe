"""An exponential moving average of the weights, which often classifies better."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn


class Ema:
    """Averages a model's parameters over its steps; buffers are the model's latest.

    The average keeps the share min(decay, (1 + n) / (10 + n)) of itself at update n, so that it
    forgets the random start soon in a short run too.

    Attributes:
        model: the averaged network, in eval mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = deepcopy(model).eval().requires_grad_(False)
        self._source, self._decay, self._updates = model, decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in what the model's parameters are now."""
        self._updates += 1
        keep = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(
            list(self.model.parameters()), list(self._source.parameters()), 1 - keep
        )
        for mine, theirs in zip(self.model.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._updates = state["updates"]
