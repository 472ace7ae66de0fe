"""One optimizer step: forward and backward, in pieces if the batch does not fit, then SGD."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vggfast.engine.evaluate import autocast
from vggfast.engine.settings import Settings
from vggfast.engine.task import CLASSIFICATION, Task
from vggfast.engine.world import World, no_sync
from vggfast.graph import CapturedStep, capture_step


class Step:
    """Trains on a batch, of which this process has a share.

    The gradient is that of the mean loss over the whole batch: a piece's, and a process's, counts
    by its images. So pieces and processes change nothing but the rounding of sums (and, with batch
    normalisation, whose statistics are of one piece).

    Args:
        model: the network, on ``device``.
        settings: checked settings.
        world: the processes that take part.
        device: where to compute.
        task: what the network is trained for.

    Attributes:
        optimizer: SGD over the model's parameters that are trained.
        scaler: of fp16's gradients; in other dtypes it does nothing.
        captured: the step as a CUDA graph, once there is one.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        world: World,
        device: torch.device,
        task: Task = CLASSIFICATION,
    ) -> None:
        self._model, self._settings, self._device, self._task = model, settings, device, task
        self._dtype = settings.compute_dtype(device)
        self._share, self._world = world.wrap(model, device), world.size
        self.optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.scaler: Any = torch.amp.GradScaler(device.type, enabled=self._dtype == torch.float16)
        self.captured: CapturedStep | None = None

    def __call__(self, x: Tensor, y: Tensor, images: int) -> Tensor:
        """Train on x (N, 3, H, W) and y (N, ...), this process's share of a batch of ``images``.

        Returns:
            (2,), float64, on the device: the sum of the losses before the step, and the number of
            images that were right by the task's first measure.
        """
        x, y = x.to(self._device, non_blocking=True), y.to(self._device, non_blocking=True)
        if self._settings.graph and len(y) == self._settings.batch:
            return self._replay(x, y)
        pieces = self._settings.pieces(len(y))
        seen = torch.zeros(2, dtype=torch.float64, device=self._device)
        self.optimizer.zero_grad(set_to_none=True)
        for number, (part, labels) in enumerate(
            zip(x.split(pieces), y.split(pieces), strict=True), 1
        ):
            with no_sync(self._share, last=number * pieces >= len(y)):
                with autocast(self._device, self._dtype):
                    logits = self._share(part)
                loss = self._loss(logits, labels, images)
                # DDP divides the sum over the processes by their number.
                self.scaler.scale(loss * self._world if self._world > 1 else loss).backward()
            seen += self._seen(loss, logits, labels, images)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return seen

    def close(self) -> None:
        """Let go of what averages gradients, before the processes part.

        It holds their group. Were it the last to do so, freeing it would wait for gloo's threads
        with the interpreter's lock held, for which one of them may wait in turn.
        """
        self._share = self._model

    def _replay(self, x: Tensor, y: Tensor) -> Tensor:
        """The step as one CUDA graph; the first whole batch is what it is captured with."""
        images = len(y)
        if self.captured is None:
            loss = partial(self._loss, images=images)
            with autocast(self._device, self._dtype):
                self.captured = capture_step(self._model, loss, self.optimizer, x, y)
        return self._seen(self.captured(x, y), self.captured.output, y, images)

    def _loss(self, logits: Tensor, y: Tensor, images: int) -> Tensor:
        return self._task.loss(logits.float(), y, self._settings) / images

    def _seen(self, loss: Tensor, logits: Tensor, y: Tensor, images: int) -> Tensor:
        hits = self._task.hits(logits.detach(), y)
        return torch.stack([loss.detach().double() * images, hits.double()])
