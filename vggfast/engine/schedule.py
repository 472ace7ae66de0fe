"""How the learning rate goes: divided by 10 on a plateau, or along half a cosine."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch

SCHEDULES = ("plateau", "cosine")
DROPS = 3  # the paper divides the learning rate by 10 three times


class Schedule(Protocol):
    """Sets ``lr`` of the optimizer's groups."""

    def before_step(self, iteration: int) -> None:
        """Step ``iteration`` of the run comes next, counted from 0."""

    def after_epoch(self, accuracy: float) -> None:
        """An epoch has ended with this validation accuracy."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Plateau:
    """A tenth of the rate when accuracy has not improved for ``patience`` epochs (section 3.1)."""

    def __init__(self, optimizer: torch.optim.Optimizer, lr: float, patience: int) -> None:
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode="max",
            factor=0.1,
            patience=patience,
            threshold=0.0,
            eps=0.0,
            min_lr=lr * 0.1**DROPS,
        )

    def before_step(self, iteration: int) -> None:
        pass

    def after_epoch(self, accuracy: float) -> None:
        self._scheduler.step(accuracy)

    def state_dict(self) -> dict[str, Any]:
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._scheduler.load_state_dict(state)


class Cosine:
    """lr (1 + cos(pi t)) / 2, t from 0 to 1, after a linear rise over the first steps.

    It is a function of the iteration alone, so there is nothing to save.

    Args:
        optimizer: whose rate is set.
        lr: the highest rate.
        steps: iterations of the whole run.
        warmup: the share of them that the rise takes, 0 <= warmup < 1.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, lr: float, steps: int, warmup: float
    ) -> None:
        self._optimizer, self._lr, self._steps = optimizer, lr, steps
        self._rise = round(warmup * steps)

    def rate(self, iteration: int) -> float:
        """The learning rate of step ``iteration``."""
        if iteration < self._rise:
            return self._lr * (iteration + 1) / self._rise
        t = (iteration - self._rise) / max(1, self._steps - self._rise)
        return self._lr * (1 + math.cos(math.pi * t)) / 2

    def before_step(self, iteration: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self.rate(iteration)

    def after_epoch(self, accuracy: float) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
