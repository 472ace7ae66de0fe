"""``capture_step``: forward pass, loss, backward pass and optimizer as one CUDA graph."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vggfast import backends
from vggfast.errors import InputError
from vggfast.graph import checks, record
from vggfast.graph.state import Saved, start_momentum
from vggfast.graph.watch import Watch

Loss = Callable[[Tensor, Tensor], Tensor]


def capture_step(
    model: nn.Module, loss_fn: Loss, optimizer: torch.optim.SGD, x: Tensor, y: Tensor
) -> CapturedStep:
    """Capture a whole training step in a CUDA graph: a callable ``step(x, y)`` that replays it.

    A call does what ``optimizer.zero_grad(); loss_fn(model(x), y).backward(); optimizer.step()``
    does, dropout with fresh masks from the same random numbers. Capturing leaves parameters,
    buffers, momentum and random state as they were. Ordinary steps and evaluation may come between
    calls. A changed learning rate is followed (read on the GPU, as float32); another momentum,
    weight decay or loaded optimizer state is an error that asks for a new capture.

    Args:
        model: in training mode, on a CUDA device, without hooks. In a region of autocast the casts
            are captured too (bfloat16: a scaler of float16 gradients waits for the GPU).
        loss_fn: of the model's output and y, a scalar; it must not wait for the GPU.
        optimizer: ``torch.optim.SGD(..., fused=True)``.
        x, y: an input and a target as the calls will bring: their shape, dtype and device.

    Raises:
        InputError: something that cannot be captured; the message names it and what is allowed.
    """
    checks.model(model, training=True)
    checks.on_gpu("x", x)
    checks.on_gpu("y", y)
    checks.together(model, x.device)
    if y.device != x.device:
        raise InputError(f"y: got device {y.device}, allowed is {x.device}, as x has")
    checks.optimizer(optimizer, x.device)
    return CapturedStep(model, loss_fn, optimizer, x, y)


class CapturedStep:
    """What :func:`capture_step` returns.

    Attributes:
        output: the model's output of the last call, in the graph's memory: the next overwrites it.
    """

    output: Tensor

    def __init__(
        self, model: nn.Module, loss_fn: Loss, optimizer: torch.optim.SGD, x: Tensor, y: Tensor
    ) -> None:
        self._model, self._loss_fn, self._optimizer = model, loss_fn, optimizer
        device = x.device
        self._turns, self._lock = record.Turns(device), threading.Lock()
        with record.capturable(device), torch.enable_grad():
            self._x = torch.empty_like(x).copy_(x.detach())
            self._y = torch.empty_like(y).copy_(y.detach())
            self._rates = [
                torch.zeros((), dtype=torch.float32, device=device) for _ in optimizer.param_groups
            ]
            self._known: list[Any] = [None] * len(self._rates)
            start_momentum(optimizer)
            self._follow_rates()
            saved = Saved(model, optimizer, device)
            try:
                record.warm_up(self._run, device)
            finally:
                saved.restore()
            self._drop_grads()
            try:
                self._graph, (self._loss, self.output) = record.record(self._run, device)
            except BaseException:
                saved.restore()
                raise
        self._grads = [(p, p.grad) for p in self._parameters()]
        self._watch = Watch(model, optimizer)
        self._turns.next()

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Train on one batch: the loss, a scalar, before the step.

        The parameters' ``grad`` are then this step's, in the graph's memory.

        Raises:
            InputError: x or y of another shape, dtype or device than captured; a parameter, the
                momentum or a setting of the optimizer is not what was captured; eval mode.
        """
        checks.like("x", x, self._x)
        checks.like("y", y, self._y)
        with self._lock, torch.no_grad():
            checks.mode(self._model, training=True)
            self._watch.check()
            self._turns.next()
            self._follow_rates()
            self._x.copy_(x)
            self._y.copy_(y)
            self._graph.replay()
            # A replay counts no version up: what was packed of these weights is old now.
            backends.get("triton").clear_weights()
            torch.autograd.graph.increment_version(self._watch.tensors)
            for p, grad in self._grads:
                p.grad = grad
            return self._loss.clone()

    def _run(self) -> tuple[Tensor, Tensor]:
        self._drop_grads()  # so that backward writes them and does not add
        output = self._model(self._x)
        loss = self._loss_fn(output, self._y)
        if not isinstance(loss, Tensor) or loss.dim():
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"loss_fn: got {got} from it, allowed is a scalar torch.Tensor")
        loss.backward()
        with self._rates_on_device():
            self._optimizer.step()
        return loss.detach(), output.detach()

    def _parameters(self) -> list[Tensor]:
        groups = self._optimizer.param_groups
        own = [*self._model.parameters(), *(p for g in groups for p in g["params"])]
        return list({id(p): p for p in own}.values())

    def _drop_grads(self) -> None:
        for p in self._parameters():
            p.grad = None

    def _follow_rates(self) -> None:
        """Bring the learning rates to the GPU where they changed; nobody waits for that."""
        for i, group in enumerate(self._optimizer.param_groups):
            rate = group["lr"]
            if isinstance(rate, Tensor):
                self._rates[i].copy_(rate)
            elif rate != self._known[i]:
                self._rates[i].fill_(rate)
                self._known[i] = rate

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """The optimizer's own rates are numbers, which a graph would hold for ever."""
        groups = self._optimizer.param_groups
        before = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self._rates, strict=True):
                group["lr"] = rate
            yield
        finally:
            for group, rate in zip(groups, before, strict=True):
                group["lr"] = rate
