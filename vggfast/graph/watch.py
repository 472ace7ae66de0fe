"""What a captured graph reads and writes at fixed addresses, and whether it is still there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vggfast.errors import InputError

# Numbers that the captured optimizer step holds; the learning rate it reads (step.py).
FIXED = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
_AGAIN = "allowed is the one that was captured: capture again"


class Watch:
    """The parameters and buffers of a model, and the state of its optimizer, at a capture.

    Every call checks, so this is kept cheap. A module that was exchanged as a whole is not seen.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        self._slots: list[tuple[dict[str, Any], str]] = []  # where each tensor hangs
        self._names: list[str] = []
        self.tensors: list[Tensor] = []  # every parameter and buffer
        for path, m in model.named_modules():
            for slots in (m._parameters, m._buffers):
                for name, t in slots.items():
                    if t is not None:
                        self._slots.append((slots, name))
                        self._names.append(f"{path}.{name}" if path else name)
                        self.tensors.append(t)
        self._places = self._now()
        self._optimizer = optimizer
        self._state = None if optimizer is None else _optimizer_state(optimizer)
        self._fixed = None if optimizer is None else _fixed(optimizer)

    def check(self) -> None:
        """Raise InputError if something is not where it was captured."""
        now = self._now()
        if now != self._places:
            for name, *facts in zip(self._names, *now, *self._places, strict=True):
                if facts[0] != facts[3]:
                    raise InputError(f"model: got another tensor as {name}, {_AGAIN}")
                if facts[1:3] != facts[4:]:
                    raise InputError(f"model: got {name} moved, resized or (un)frozen, {_AGAIN}")
        if self._optimizer is None:
            return
        if _fixed(self._optimizer) != self._fixed:
            raise InputError(
                f"optimizer: got other groups or another {', '.join(FIXED[:-1])} or {FIXED[-1]}, "
                f"{_AGAIN} (only the learning rate is followed)"
            )
        if _optimizer_state(self._optimizer) != self._state:
            raise InputError(
                "optimizer: got other momentum buffers (load_state_dict makes them), " + _AGAIN
            )

    def _now(self) -> tuple[list[int], list[int], list[bool]]:
        """Identities, addresses, whether they learn."""
        return (
            [id(slots.get(name)) for slots, name in self._slots],
            [t.data_ptr() for t in self.tensors],
            [t.requires_grad for t in self.tensors],
        )


def _optimizer_state(optimizer: torch.optim.Optimizer) -> list[int]:
    """The identity of each buffer; they cannot be compared themselves."""
    return [
        id(optimizer.state[p].get("momentum_buffer")) if p in optimizer.state else 0
        for group in optimizer.param_groups
        for p in group["params"]
    ]


def _fixed(optimizer: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
    return [
        (*(group[name] for name in FIXED), *map(id, group["params"]))
        for group in optimizer.param_groups
    ]
