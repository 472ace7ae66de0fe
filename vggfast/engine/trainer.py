"""The training loop: SGD with momentum, and a learning rate divided by 10 on a plateau."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast.data import Batches, DataSet
from vggfast.engine import checkpoint
from vggfast.engine.evaluate import autocast, evaluate
from vggfast.engine.history import History, Row, TensorBoard
from vggfast.engine.progress import Progress
from vggfast.engine.settings import DTYPES, Settings
from vggfast.graph import CapturedStep, capture_step
from vggfast.models.vgg import VGG

DROPS = 3  # the paper divides the learning rate by 10 three times
GPU_CHECK_STEPS = 16  # reading a loss waits for the GPU


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that shows only while it runs."""


@dataclass
class Best:
    """The best validation accuracy so far, and its epoch (0: none yet)."""

    accuracy: float = -1.0
    epoch: int = 0


class Trainer:
    """Trains ``model`` on ``data``; every epoch ends with a row of history and a checkpoint.

    Args:
        settings: checked settings.
        data: the data set.
        model: the network, on the CPU.
        folder: where checkpoints and history go, or None to write nothing.
        progress: what to show.
    """

    def __init__(
        self,
        settings: Settings,
        data: DataSet,
        model: VGG,
        folder: Path | None,
        progress: Progress,
    ) -> None:
        self.settings, self.data, self.folder, self.progress = settings, data, folder, progress
        self.device, self.dtype = settings.torch_device, DTYPES[settings.dtype]
        self.model = model.to(self.device)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer,
            mode="max",
            factor=0.1,
            patience=settings.patience,
            threshold=0.0,
            eps=0.0,
            min_lr=settings.lr * 0.1**DROPS,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.dtype == "fp16")
        self.captured: CapturedStep | None = None
        self.history, self.best = History(), Best()
        common: Any = {"workers": settings.workers, "pin_memory": self.device.type == "cuda"}
        self.train_batches = Batches(
            data.train, settings.batch, shuffle=True, seed=settings.seed, **common
        )
        self.val_batches = Batches(data.val, settings.batch, shuffle=False, **common)

    @property
    def done(self) -> int:
        """Epochs completed."""
        return len(self.history)

    def run(self) -> None:
        """Train to ``settings.epochs``.

        Raises:
            TrainingError: the loss is not finite; the last checkpoint stays.
            InputError: an image cannot be read, or a checkpoint not written.
            KeyboardInterrupt: passed on, with a message that says what is kept.
        """
        board = None
        if self.settings.tensorboard and self.folder is not None:
            board = TensorBoard(self.folder / "tensorboard", self.done + 1)
        try:
            while self.done < self.settings.epochs:
                row, best = self._epoch(self.done + 1)
                self._save(best)
                if board is not None:
                    board.add(row)
                self.progress.end(row, self.settings.epochs, best)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._kept()) from None
        finally:
            self.progress.close()
            if board is not None:
                board.close()

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint holds; the model under torchvision's parameter names."""
        return {
            "format": checkpoint.FORMAT,
            "epoch": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": checkpoint.rng_state(),
            "settings": self.settings.saved(),
            "data": {
                "classes": list(self.data.classes),
                "mean": list(self.data.mean),
                "std": list(self.data.std),
                "images": len(self.data.train),
            },
            "best": [self.best.accuracy, self.best.epoch],
            "history": self.history.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint of the same network and data."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.history, self.best = History.from_state(state["history"]), Best(*state["best"])
        checkpoint.set_rng_state(state["rng"])

    def _epoch(self, number: int) -> tuple[Row, bool]:
        self.progress.start(number, self.settings.epochs, self.train_batches.images)
        lr = float(self.optimizer.param_groups[0]["lr"])
        start = time.perf_counter()
        loss, accuracy = self._train(number, lr)
        seconds = time.perf_counter() - start
        val = evaluate(self.model, self.val_batches.epoch(), device=self.device, dtype=self.dtype)
        if not math.isfinite(val.loss):
            raise TrainingError(self._diverged(val.loss, f"the end of epoch {number}", lr))
        self.scheduler.step(val.accuracy)
        best = val.accuracy > self.best.accuracy
        if best:
            self.best = Best(val.accuracy, number)
        speed = self.train_batches.images / seconds
        row = Row(number, lr, loss, accuracy, val.loss, val.accuracy, val.top5, seconds, speed)
        self.history.append(row)
        return row, best

    def _train(self, number: int, lr: float) -> tuple[float, float]:
        """Train one epoch; the mean loss and the accuracy over its images."""
        self.model.train()
        every = GPU_CHECK_STEPS if self.device.type == "cuda" else 1
        pending: list[tuple[Tensor, int]] = []
        total, correct = 0.0, torch.zeros((), dtype=torch.int64, device=self.device)
        steps = len(self.train_batches)
        for step, (x, y) in enumerate(self.train_batches.epoch(number), 1):
            loss, hits = self._step(x, y)
            correct += hits
            pending.append((loss, len(y)))
            if len(pending) < every and step < steps:
                continue
            for back, value in enumerate(torch.stack([t for t, _ in pending]).tolist()):
                if not math.isfinite(value):
                    at = step - len(pending) + 1 + back
                    raise TrainingError(self._diverged(value, f"epoch {number}, step {at}", lr))
                images = pending[back][1]
                total += value * images
                self.progress.step(images, value)
            pending.clear()
        return total / self.train_batches.images, int(correct) / self.train_batches.images

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
        if self.settings.graph and len(y) == self.settings.batch:
            return self._replay(x, y)
        with autocast(self.device, self.dtype):
            logits = self.model(x)
        loss = _loss(logits, y)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), (logits.detach().argmax(1) == y).sum()

    def _replay(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """:meth:`_step` as one CUDA graph; the first whole batch is what it is captured with."""
        if self.captured is None:
            with autocast(self.device, self.dtype):
                self.captured = capture_step(self.model, _loss, self.optimizer, x, y)
        loss = self.captured(x, y)
        return loss, (self.captured.output.argmax(1) == y).sum()

    def _save(self, best: bool) -> None:
        if self.folder is None:
            return
        last = self.folder / "last.pt"
        checkpoint.save(last, self.state())
        if best:
            checkpoint.copy(last, self.folder / "best.pt")
        self.history.write_csv(self.folder / "history.csv")

    def _diverged(self, loss: float, where: str, lr: float) -> str:
        return f"loss is {loss} at {where} with lr {lr:g}; try a lower lr ({self._kept()})"

    def _kept(self) -> str:
        if self.folder is None:
            return "nothing is kept, as no out was given"
        if not self.done:
            return "no epoch was completed, so there is no checkpoint"
        return f"{self.folder / 'last.pt'} holds epoch {self.done}; continue it with --resume"


def _loss(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), y)
