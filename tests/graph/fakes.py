"""A stand-in for CUDA graphs, so that all around them runs on a CPU.

What replays is the function that was recorded, called again; its results go to the memory of the
first ones, as a graph's do. What a graph itself may do wrong is tested on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Replay:
    """Calls ``run`` again and writes over what it returned before, and over the gradients."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self.replays = 0
        self.results: Any = None

    def replay(self) -> None:
        self.replays += 1
        with torch.enable_grad():
            again = self._run()
        for old, new in zip(_flat(self.results), _flat(again), strict=True):
            old.detach().copy_(new)


def _flat(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def record(run: Callable[[], Any], device: torch.device) -> tuple[Replay, Any]:
    """In place of ``vggfast.graph.record.record``; unlike a capture it does run, so undo that."""
    graph = Replay(run)
    graph.results = run()
    return graph, graph.results
