"""What a tuning run shows while it works: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, TextIO

from vggfast.tune.search import Finding


class Progress:
    """Shows nothing. The others override what they show."""

    def note(self, text: str) -> None:
        """A line of its own."""

    def begin(self, title: str) -> None:
        """A problem is tuned next."""

    def tick(self, text: str) -> None:
        """Something within the problem: shown on the bar only."""

    def end(self, text: str) -> None:
        """A problem is done; ``text``: what came of it."""

    def close(self) -> None:
        """The run is over, in whatever way."""


class Lines(Progress):
    """One line a problem, and one for each candidate that was skipped."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total, self._done, self._stream = total, 0, stream or sys.stdout

    def note(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def end(self, text: str) -> None:
        self._done += 1
        self.note(f"[{self._done}/{self._total}] {text}")


class Bar(Lines):
    """A bar under the lines. Needs rich."""

    def __init__(self, total: int) -> None:
        super().__init__(total)
        bars: Any = importlib.import_module("rich.progress")
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(), transient=True,
        )  # fmt: skip
        self._title = ""
        self._task = self._bar.add_task("", total=total)
        self._bar.start()

    def note(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, title: str) -> None:
        self._title = title
        self._bar.update(self._task, description=title)

    def tick(self, text: str) -> None:
        self._bar.update(self._task, description=f"{self._title}: {text}")

    def end(self, text: str) -> None:
        super().end(text)
        self._bar.advance(self._task)

    def close(self) -> None:
        self._bar.stop()


def choose(shown: bool, total: int) -> Progress:
    """A bar on a terminal (where rich is installed), lines elsewhere, nothing if not ``shown``."""
    if not shown:
        return Progress()
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        return Bar(total)
    return Lines(total)


def summary(found: Finding) -> str:
    """One line for a problem."""
    counted = f"{found.timed} timed in {found.rounds} rounds, {found.pruned} pruned"
    if found.tile is None:
        return f"{found.problem.title}: nothing could be measured"
    line = f"{found.problem.title}: {found.tile.name} {found.ms:.4g} ms"
    if found.rule_ms is None:
        return f"{line}, the rule's tile does not run; {counted}"
    if found.tile == found.rule:
        return f"{line}, as the rule has it; {counted}"
    return f"{line}, {found.rule_ms / found.ms:.2f}x of the rule's {found.rule.name}; {counted}"
