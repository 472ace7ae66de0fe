"""SIGTERM, with which Slurm and Kubernetes take a machine back, as a question the loop can ask."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """Whether the run has been asked to stop."""

    asked: bool = False


class StoppedError(RuntimeError):
    """The run was asked to stop, and has saved a checkpoint that continues where it was."""


@contextmanager
def on_sigterm() -> Iterator[Stop]:
    """Within this block SIGTERM ends nothing, it sets ``asked``.

    Only the main thread may set signal handlers: elsewhere SIGTERM stays what it was.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: object) -> None:
        stop.asked = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
