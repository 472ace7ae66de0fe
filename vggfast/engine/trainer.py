"""The training loop: epochs of steps, an evaluation after each, checkpoints between and within."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from vggfast.data import Batches, DataSet
from vggfast.engine import output, state
from vggfast.engine.ema import Ema
from vggfast.engine.evaluate import evaluate
from vggfast.engine.failures import explained
from vggfast.engine.history import History, Row, TensorBoard
from vggfast.engine.output import Output
from vggfast.engine.progress import Progress
from vggfast.engine.schedule import Cosine, Plateau, Schedule
from vggfast.engine.settings import Settings
from vggfast.engine.state import Best, Position
from vggfast.engine.step import Step
from vggfast.engine.stop import Stop, StoppedError
from vggfast.engine.task import CLASSIFICATION, Task
from vggfast.engine.world import World
from vggfast.errors import InputError
from vggfast.models.vgg import VGG

CHECK_STEPS = 16  # on a GPU, where reading a loss waits for it
CHECK_BATCHES = 16  # of an evaluation, when several processes must agree to stop


class TrainingError(RuntimeError):
    """Training cannot go on, for a reason that shows only while it runs."""


class Trainer:
    """Trains ``model`` on ``data``; every epoch ends with a row of history and a checkpoint.

    Args:
        settings: checked settings.
        data: the data set.
        model: the network, on the CPU.
        out: writes checkpoints and history, in the first process.
        progress: what to show.
        world: the processes that take part.
        stop: whether the run is asked to stop.
        task: what the network is trained for.

    Attributes:
        at: how far the present epoch has come.
        kept: the epochs, and the steps of the next one, that the last checkpoint holds.
    """

    def __init__(
        self,
        settings: Settings,
        data: DataSet,
        model: VGG,
        out: Output,
        progress: Progress,
        world: World = World(),  # noqa: B008 - it is frozen
        stop: Stop | None = None,
        task: Task = CLASSIFICATION,
    ) -> None:
        self.settings, self.data, self.out, self.progress = settings, data, out, progress
        self.world, self.stop, self.task = world, stop or Stop(), task
        self.progress.measure = task.measures[0]
        self.device = world.place(settings.torch_device)
        self.dtype = settings.compute_dtype(self.device)
        self.model = model.to(self.device)
        self.step = Step(self.model, settings, world, self.device, task)
        self.ema = Ema(self.model, settings.ema) if settings.ema else None
        self.history, self.best, self.at = History(), Best(), Position()
        self.kept, self._kept_at = (0, 0), time.monotonic()
        self._reported: set[str] = set()
        common: Any = {
            "workers": settings.workers, "pin_memory": self.device.type == "cuda",
            "rank": world.rank, "world": world.size, "device": self.device,
        }  # fmt: skip
        self.train_batches = Batches(
            data.train, settings.batch, shuffle=True, seed=settings.seed, **common
        )
        self.val_batches = Batches(data.val, settings.batch, shuffle=False, **common)
        self.steps = len(self.train_batches)
        self.schedule = _schedule(settings, self.step.optimizer, self.steps)

    @property
    def done(self) -> int:
        """Epochs completed."""
        return len(self.history)

    @property
    def judged(self) -> VGG:
        """The network that is evaluated and kept: the averaged one where there is one."""
        return self.model if self.ema is None else self.ema.model  # type: ignore[return-value]

    def run(self) -> None:
        """Train to ``settings.epochs``.

        Raises:
            TrainingError: the loss is not finite; the last checkpoint stays.
            StoppedError: it was asked to stop, and has saved a checkpoint.
            InputError: an image cannot be read, a file not written, or memory is short.
            KeyboardInterrupt: passed on, with a message that says what is kept.
        """
        board, folder = None, self.out.path("tensorboard")
        if self.settings.tensorboard and folder is not None:
            board = TensorBoard(folder, self.done + 1, self.task.measures)
        try:
            if self.done:
                # a killed run may not have come to it
                self.out.write_history(self.history, self.task.measures)
            while self.done < self.settings.epochs:
                row, best = self._epoch(self.done + 1)
                if board is not None:
                    board.add(row)
                self.progress.end(row, self.settings.epochs, best)
            self.out.write_weights(output.LAST_WEIGHTS, self.judged, self.data, self.done)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._what_is_kept()) from None
        except RuntimeError as error:
            known = explained(error, "micro_batch")
            if known is None:
                raise
            raise InputError(f"{known} ({self._what_is_kept()})") from None
        finally:
            self.step.close()
            self.out.close()
            self.progress.close()
            if board is not None:
                board.close()

    def _epoch(self, number: int) -> tuple[Row, bool]:
        images = self.train_batches.images
        self.progress.start(
            number, self.settings.epochs, images, min(images, self.at.step * self.settings.batch)
        )
        self._train(number)
        self.world.share_buffers(self.judged)
        val = evaluate(
            self.judged, self._until_stopped(self.val_batches.epoch()), device=self.device,
            dtype=self.dtype, total=self.world.sum, task=self.task,
        )  # fmt: skip
        self._report_bad_images(number)
        with self.world.together():
            if not val.images:
                raise InputError(
                    f"data: none of {self.val_batches.images} validation images can be read"
                )
        self._check_weights(self._where(number))
        if not math.isfinite(val.loss):
            raise TrainingError(self._diverged(val.loss, f"the end of epoch {number}"))
        at, lr = self.at, self._lr
        row = Row(
            number, lr, at.loss / images, at.correct / images, val.loss, val.accuracy, val.top5,
            at.seconds, images / at.seconds, at.waited,
        )  # fmt: skip
        self.schedule.after_epoch(val.accuracy)
        best = val.accuracy > self.best.accuracy
        if best:
            self.best = Best(val.accuracy, number)
        self.history.append(row)
        self.at = Position()
        if best:
            # Before the checkpoint: a run killed between the two writes these again.
            self.out.write_weights(output.BEST_WEIGHTS, self.judged, self.data, number)
        self._save()
        self.out.write_history(self.history, self.task.measures)
        return row, best

    def _train(self, number: int) -> None:
        """Train the rest of epoch ``number``."""
        self.model.train()
        every = CHECK_STEPS if self.device.type == "cuda" else 1
        batches, waited = self.train_batches, self.at.waited
        pending: list[tuple[Tensor, int]] = []
        start = time.perf_counter()
        for x, y in batches.epoch(number, start=self.at.step):
            step = self.at.step + len(pending) + 1
            images = batches.step_images(step - 1)
            self.schedule.before_step((number - 1) * self.steps + step - 1)
            pending.append((self.step(x, y, images), images))
            if self.ema is not None:
                self.ema.update()
            due = self._due_by_steps(number, step)
            if len(pending) < every and step < self.steps and not due:
                continue
            late, stopped = self._book(number, pending)
            pending.clear()
            now = time.perf_counter()
            self.at.seconds += now - start
            self.at.waited = waited + batches.waited
            if stopped:
                self._leave()
            if due or late:
                self._save()
            start = time.perf_counter()

    def _book(self, number: int, pending: list[tuple[Tensor, int]]) -> tuple[bool, bool]:
        """Take in what the last steps gave, over all processes.

        Returns:
            Whether a checkpoint is late, and whether the run is asked to stop, in any process.
        """
        seen = torch.stack([s for s, _ in pending]).flatten().tolist()
        asked = [float(self._late() and self.world.first), float(self.stop.asked)]
        *seen, late, stopped = self.world.sum([*seen, *asked])
        for loss, correct, (_, images) in zip(seen[::2], seen[1::2], pending, strict=True):
            self.at.step += 1
            if not math.isfinite(loss):
                raise TrainingError(self._diverged(loss / images, self._where(number)))
            self.at.loss += loss
            self.at.correct += correct
            self.progress.step(images, loss / images)
        return late > 0, stopped > 0

    def _until_stopped(
        self, batches: Iterator[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an evaluation, which a machine that is taken back does not wait for."""
        every = 1 if self.world.size == 1 else CHECK_BATCHES
        for number, batch in enumerate(batches):
            if number % every == 0 and self.world.sum([float(self.stop.asked)])[0] > 0:
                self._leave()
            yield batch

    def _report_bad_images(self, number: int) -> None:
        """Say which images could not be read, each once, and how many were asked for in vain."""
        own = (self.train_batches, self.val_batches)
        everywhere = self.world.gather([(batches.skipped, batches.bad) for batches in own])
        for name, reason in (item for of in everywhere for _, bad in of for item in bad.items()):
            if name not in self._reported:
                self._reported.add(name)
                self.progress.note(f"left out {name}: {reason.removeprefix('data: ')}")
        train, val = (sum(of[part][0] for of in everywhere) for part in (0, 1))
        if train or val:
            self.progress.note(
                f"epoch {number}: {train} training images were replaced, {val} validation images "
                "left out, as they cannot be read"
            )

    def _leave(self) -> None:
        self._save()
        raise StoppedError(self._what_is_kept())

    def _due_by_steps(self, number: int, step: int) -> bool:
        steps, _ = self.settings.checkpoint_interval
        return steps > 0 and ((number - 1) * self.steps + step) % steps == 0

    def _late(self) -> bool:
        _, seconds = self.settings.checkpoint_interval
        return seconds > 0 and time.monotonic() - self._kept_at >= seconds

    def _check_weights(self, where: str) -> None:
        """The loss before a step may be finite and the weights after it not."""
        for name, p in self.model.named_parameters():
            if not bool(p.isfinite().all()):
                raise TrainingError(self._diverged(math.nan, f"{where}, in {name}"))

    def _save(self) -> None:
        if self.at.step:  # else an epoch has ended, after which they were looked at
            self._check_weights(self._where(self.done + 1))
        self.out.save(state.of(self))
        self.kept, self._kept_at = (self.done, self.at.step), time.monotonic()

    @property
    def _lr(self) -> float:
        return float(self.step.optimizer.param_groups[0]["lr"])

    def _where(self, number: int) -> str:
        step = self.at.step
        return f"iteration {(number - 1) * self.steps + step} (epoch {number}, step {step})"

    def _diverged(self, loss: float, where: str) -> str:
        what = self._what_is_kept()
        return f"loss is {loss} at {where} with lr {self._lr:g}; try a lower lr ({what})"

    def _what_is_kept(self) -> str:
        last = self.out.path(output.LAST)
        if last is None:
            return "nothing is kept, as no out was given"
        epoch, step = self.kept
        if not epoch and not step:
            return "no epoch was completed, so there is no checkpoint"
        held = f"epoch {epoch}" if epoch else ""
        if step:
            held += f"{' and ' if epoch else ''}{step} of {self.steps} steps of epoch {epoch + 1}"
        return f"{last} holds {held}; continue it with --resume"


def _schedule(settings: Settings, optimizer: torch.optim.Optimizer, steps: int) -> Schedule:
    if settings.schedule == "cosine":
        return Cosine(optimizer, settings.lr, steps * settings.epochs, settings.warmup)
    return Plateau(optimizer, settings.lr, settings.patience)
