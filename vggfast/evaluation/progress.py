"""What an evaluation shows while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from vggfast.data.base import require


class Progress:
    """Shows nothing. The others override what they show."""

    def note(self, text: str) -> None:
        """A line of its own."""

    def start(self, title: str, images: int) -> None:
        """A pass over ``images`` images begins."""

    def step(self, images: int) -> None:
        """``images`` more images are done."""

    def end(self) -> None:
        """The pass is over."""

    def close(self) -> None:
        """The evaluation is over, in whatever way."""


class Lines(Progress):
    """One line a pass."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._title, self._images, self._began = "", 0, 0.0

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def start(self, title: str, images: int) -> None:
        self._title, self._images, self._began = title, images, time.perf_counter()

    def end(self) -> None:
        seconds = time.perf_counter() - self._began
        self.note(
            f"{self._title}: {self._images} images, {seconds:.1f} s, "
            f"{self._images / seconds:.1f} images/s"
        )


class Bar(Lines):
    """A bar with images/s under the lines. Needs rich."""

    def __init__(self) -> None:
        super().__init__()
        bars, console = require("rich.progress", "rich"), require("rich.console", "rich")
        self._bar: Any = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TextColumn("{task.fields[speed]} images/s"),
            bars.TimeRemainingColumn(),
            console=console.Console(stderr=True),
            transient=True,
        )
        self._task: Any = None
        self._bar.start()

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, title: str, images: int) -> None:
        super().start(title, images)
        self._task = self._bar.add_task(title, total=images, speed="-")

    def step(self, images: int) -> None:
        self._bar.advance(self._task, images)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, speed=f"{speed:.1f}" if speed else "-")

    def end(self) -> None:
        self._bar.remove_task(self._task)
        super().end()

    def close(self) -> None:
        self._bar.stop()


def choose(shown: bool) -> Progress:
    """A bar on a terminal, lines elsewhere, nothing if not ``shown``; all on standard error."""
    if not shown:
        return Progress()
    return Bar() if sys.stderr.isatty() else Lines()
