"""Progress: one bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)  # fmt: skip


class Steps:
    """Counts the jobs of a run. A context manager; ``total`` is how many jobs there are."""

    def __init__(self, console: Console, total: int) -> None:
        self._console, self._total, self._done = console, total, 0
        self._what = ""
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), console=console, transient=True,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Steps:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begin(self, what: str) -> None:
        """A job starts."""
        self._what = what
        if self._bar is not None:
            self._bar.update(self._task, description=what)
        else:
            seconds = time.monotonic() - self._started
            self._console.print(
                f"[{self._done + 1}/{self._total} {seconds:.0f} s] {what}",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip

    def tick(self, text: str) -> None:
        """Something within the job: shown on the bar only."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._what}: {text}")

    def end(self) -> None:
        """The job is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
