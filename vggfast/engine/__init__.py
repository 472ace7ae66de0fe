"""Training and evaluation: settings, the loop, checkpoints, history."""

from __future__ import annotations

from vggfast.engine.evaluate import Evaluation, evaluate
from vggfast.engine.history import History, Row
from vggfast.engine.run import Result, run
from vggfast.engine.settings import Settings
from vggfast.engine.stop import StoppedError
from vggfast.engine.trainer import Trainer, TrainingError

__all__ = [
    "Evaluation", "History", "Result", "Row", "Settings", "StoppedError", "Trainer",
    "TrainingError", "evaluate", "run",
]  # fmt: skip
