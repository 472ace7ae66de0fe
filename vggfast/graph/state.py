"""Everything a training step changes, so that warm-up steps leave no trace."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Saved:
    """A copy of parameters, buffers, optimizer state and random state; ``restore`` puts it back.

    Tensors are restored in place, for a graph reads them where they are. Gradients are kept by
    reference: warm-up steps make their own.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
    ) -> None:
        own = {id(t): t for t in (*model.parameters(), *model.buffers())}
        for group in optimizer.param_groups:
            for p in group["params"]:
                own[id(p)] = p
                for value in optimizer.state[p].values() if p in optimizer.state else ():
                    if isinstance(value, Tensor):
                        own[id(value)] = value
        self._tensors = [(t, t.detach().clone()) for t in own.values()]
        self._grads = [(t, t.grad) for t in own.values() if t.is_leaf]
        self._device = device
        self._random = torch.get_rng_state()
        self._gpu_random = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        with torch.no_grad():
            for t, value in self._tensors:
                t.copy_(value)
        for t, grad in self._grads:
            t.grad = grad
        torch.set_rng_state(self._random)
        if self._gpu_random is not None:
            torch.cuda.set_rng_state(self._gpu_random, self._device)


def start_momentum(optimizer: torch.optim.SGD) -> None:
    """Momentum buffers of zero where there are none yet, with which the first step is the same.

    A graph needs them before it is captured, in memory that is not the graph's own.
    """
    for group in optimizer.param_groups:
        if not group["momentum"]:
            continue
        for p in group["params"]:
            if p.requires_grad and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
