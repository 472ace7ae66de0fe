"""What a training run shows while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from vggfast.data.base import require
from vggfast.engine.history import Row


class Progress:
    """Shows nothing: for Python callers who want it quiet. The others override what they show.

    Attributes:
        measure: what the task measures first.
    """

    measure = "accuracy"

    def note(self, text: str) -> None:
        """A line of its own."""

    def start(self, epoch: int, epochs: int, images: int, done: int = 0) -> None:
        """An epoch begins that sees ``images`` images; a resumed one has seen ``done`` already."""

    def step(self, images: int, loss: float) -> None:
        """``images`` more images have been trained on, with a mean loss of ``loss``."""

    def end(self, row: Row, epochs: int, best: bool) -> None:
        """An epoch is over; ``best``: with the best validation accuracy so far."""

    def close(self) -> None:
        """The run is over, in whatever way."""


class Lines(Progress):
    """One line an epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def end(self, row: Row, epochs: int, best: bool) -> None:
        self.note(summary(row, epochs, best, self.measure))


class Bar(Lines):
    """A bar with images/s and loss under the lines. Needs rich."""

    def __init__(self) -> None:
        super().__init__()
        bars = require("rich.progress", "rich")
        self._bar: Any = bars.Progress(
            bars.TextColumn("epoch {task.fields[epoch]}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[speed]} images/s  loss {task.fields[loss]}"),
            bars.TimeRemainingColumn(),
            transient=True,
        )
        self._task: Any = None
        self._bar.start()

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, epoch: int, epochs: int, images: int, done: int = 0) -> None:
        self._remove()
        self._task = self._bar.add_task(
            "", total=images, completed=done, epoch=f"{epoch}/{epochs}", speed="-", loss="-"
        )

    def step(self, images: int, loss: float) -> None:
        self._bar.advance(self._task, images)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, loss=f"{loss:.4f}", speed=f"{speed:.1f}" if speed else "-")

    def end(self, row: Row, epochs: int, best: bool) -> None:
        self._remove()
        super().end(row, epochs, best)

    def close(self) -> None:
        self._bar.stop()

    def _remove(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def summary(row: Row, epochs: int, best: bool, measure: str) -> str:
    """One line for an epoch."""
    return (
        f"epoch {row.epoch}/{epochs}  loss {row.train_loss:.4f}  val loss {row.val_loss:.4f}  "
        f"val {measure} {row.val_accuracy:.2%}  lr {row.lr:g}  {row.images_per_s:.1f} images/s  "
        f"{row.seconds:.1f} s" + ("  best" if best else "")
    )


def choose(shown: bool) -> Progress:
    """A bar on a terminal, lines elsewhere, nothing if not ``shown``."""
    if not shown:
        return Progress()
    return Bar() if sys.stdout.isatty() else Lines()
