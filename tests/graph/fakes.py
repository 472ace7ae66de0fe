"""A stand-in for CUDA graphs, so that all around them runs on a CPU.

Like a capture, recording changes nothing but what ``run`` returns and the gradients. A replay is
``run`` called again; its results go to the memory of the first ones, as a graph's do. What a graph
itself may do wrong is tested on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vggfast.graph.state import Saved
from vggfast.graph.step import CapturedStep


class Replay:
    """Calls ``run`` again and writes over what it returned before, and over the gradients."""

    def __init__(self, run: Callable[[], Any]) -> None:
        self._run = run
        self._step = getattr(run, "__self__", None)
        self.results = run()
        self._grads = self._now()

    def replay(self) -> None:
        with torch.enable_grad():
            again = self._run()
        for old, new in zip(
            (*_flat(self.results), *self._grads), (*_flat(again), *self._now()), strict=True
        ):
            old.detach().copy_(new)

    def _now(self) -> list[Tensor]:
        if not isinstance(self._step, CapturedStep):
            return []
        return [p.grad for p in self._step._parameters() if p.grad is not None]


def _flat(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def record(run: Callable[[], Any], device: torch.device) -> tuple[Replay, Any]:
    """In place of ``vggfast.graph.record.record``."""
    step = getattr(run, "__self__", None)
    if not isinstance(step, CapturedStep):
        graph = Replay(run)
        return graph, graph.results
    saved = Saved(step._model, step._optimizer, device)
    graph = Replay(run)
    grads = [(p, p.grad) for p in step._parameters()]
    saved.restore()
    for p, grad in grads:
        p.grad = grad
    return graph, graph.results
