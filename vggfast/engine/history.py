"""What a training run did: one row an epoch, as CSV and, if asked for, TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vggfast.data.base import require
from vggfast.errors import InputError
from vggfast.files import write_atomically

ACCURACIES = ("accuracy", "top5")  # the measures of a classification


@dataclass(frozen=True)
class Row:
    """One epoch. Losses are means over images, accuracies fractions of images.

    ``lr`` is the rate the epoch was trained with. ``train_accuracy`` is counted while training
    (dropout on, augmented images). ``seconds`` and ``images_per_s`` are of the training part, of
    which the loop ``waited`` so many seconds for images. Accuracy and top5 are a task's two
    measures, which files name as it does.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    val_top5: float
    seconds: float
    images_per_s: float
    waited: float

    def named(self, measures: tuple[str, str]) -> dict[str, Any]:
        """The fields by the names that :func:`columns` gives them."""
        return dict(zip(columns(measures), asdict(self).values(), strict=True))

    def numbers(self) -> tuple[float, ...]:
        """All but the timings: what a repeated run gives again, bit for bit."""
        return tuple(getattr(self, f.name) for f in fields(self)[:-3])


def columns(measures: tuple[str, str]) -> list[str]:
    """The fields of a row, "accuracy" and "top5" under the names of the measures."""
    first, second = measures
    names = {
        "train_accuracy": f"train_{first}",
        "val_accuracy": f"val_{first}",
        "val_top5": f"val_{second}",
    }
    return [names.get(f.name, f.name) for f in fields(Row)]


class History(list[Row]):
    """The rows of a run, oldest first."""

    @classmethod
    def from_state(cls, rows: list[dict[str, Any]]) -> History:
        """From what :meth:`state` gave."""
        return cls(Row(**row) for row in rows)

    def state(self) -> list[dict[str, Any]]:
        """Plain rows, for a checkpoint."""
        return [asdict(row) for row in self]

    def write_csv(self, path: Path, measures: tuple[str, str] = ACCURACIES) -> None:
        """Write all rows, atomically: a resumed run neither repeats nor loses any."""
        rows = [row.named(measures) for row in self]

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns(measures))
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(path, write)


class TensorBoard:
    """Writes rows as TensorBoard scalars to ``folder``; ``first`` is the first epoch to come."""

    def __init__(self, folder: Path, first: int, measures: tuple[str, str] = ACCURACIES) -> None:
        require("tensorboard", "TensorBoard")
        module = require("torch.utils.tensorboard", "TensorBoard")
        self._folder, self._measures = folder, measures
        with self._one_line():
            self._writer = module.SummaryWriter(str(folder), purge_step=first)

    def add(self, row: Row) -> None:
        with self._one_line():
            for name, value in row.named(self._measures).items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, row.epoch)
            self._writer.flush()

    def close(self) -> None:
        with self._one_line():
            self._writer.close()

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"tensorboard: cannot write {self._folder} ({error})") from None
