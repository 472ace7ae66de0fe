"""The folder of a run: what is written when, so that a crash at any moment leaves it usable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from vggfast.data import DataSet
from vggfast.engine import checkpoint
from vggfast.engine.claim import claim
from vggfast.engine.history import History
from vggfast.engine.settings import Settings
from vggfast.errors import InputError
from vggfast.files import write_atomically
from vggfast.models.vgg import VGG
from vggfast.weights import save_weights

LAST, PREVIOUS = "last.pt", "previous.pt"
BEST_WEIGHTS, LAST_WEIGHTS = "best.safetensors", "last.safetensors"
HISTORY, SETTINGS = "history.csv", "settings.json"


class Output:
    """Writes a run's files; each appears whole or not at all.

    | file | what | written |
    |---|---|---|
    | last.pt | all that ``--resume`` needs | at every checkpoint |
    | previous.pt | the checkpoint before it | then, as a second name of that file |
    | best.safetensors | weights of the best epoch | after such an epoch, before last.pt |
    | last.safetensors | weights of the last epoch | once, when the run is over |
    | history.csv | a row an epoch | after last.pt |
    | settings.json | the settings | at the start |

    Args:
        folder: where to, or None to write nothing.
        settings: the run's.
    """

    def __init__(self, folder: Path | None, settings: Settings) -> None:
        self.folder, self.settings = folder, settings
        self._held: IO[bytes] | None = None

    def create(self, source: Path | None) -> None:
        """Make the folder and see that it can be written to, before hours of training.

        A run that is continued from another folder, ``source``, brings its best weights along.

        Until :meth:`close` no other process may create the same: two runs that write to one folder
        would lose each other's checkpoints.

        Raises:
            InputError: it cannot, or another process is training there.
        """
        if self.folder is None:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / SETTINGS
            if path.exists() and (held := claim(path)) is not None:
                held.close()  # it is about to be replaced by another file
            for half in self.folder.glob(".*.new"):  # of a run that was killed while it wrote
                half.unlink()
            best = self.folder / BEST_WEIGHTS
            if source is not None and (source / BEST_WEIGHTS).is_file() and not best.exists():
                checkpoint.copy(source / BEST_WEIGHTS, best)
            text = json.dumps(self.settings.saved(), indent=1) + "\n"
            write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))
            self._held = claim(path)
        except OSError as error:
            raise InputError(
                f"out: cannot write to {self.folder} ({error.strerror}); allowed is a folder that "
                "can be written to"
            ) from None

    def close(self) -> None:
        """Leave the folder to others."""
        if self._held is not None:
            self._held.close()

    def path(self, name: str) -> Path | None:
        """Where a file of this name goes."""
        return None if self.folder is None else self.folder / name

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint; the one before it stays as previous.pt."""
        if self.folder is None:
            return
        last = self.folder / LAST
        try:
            if last.exists():
                checkpoint.copy(last, self.folder / PREVIOUS)
        except OSError as error:
            raise InputError(f"out: cannot write {self.folder / PREVIOUS} ({error})") from None
        checkpoint.save(last, state)

    def write_weights(self, name: str, model: VGG, data: DataSet, epoch: int) -> None:
        """Write the weights that ``model`` has after ``epoch``."""
        if self.folder is None:
            return
        save_weights(
            self.folder / name, model, classes=data.classes, mean=data.mean, std=data.std,
            scale=self.settings.trained_scale,
            extra={"epoch": str(epoch), "settings": json.dumps(self.settings.saved())},
        )  # fmt: skip

    def write_history(self, history: History, measures: tuple[str, str]) -> None:
        """Write the rows of all epochs, with the task's names of its measures."""
        if self.folder is None:
            return
        path = self.folder / HISTORY
        try:
            history.write_csv(path, measures)
        except OSError as error:
            raise InputError(f"out: cannot write {path} ({error.strerror})") from None
