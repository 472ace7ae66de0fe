"""What a training run has left in its folder, and in which settings runs differ."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vggfast.engine.history import ACCURACIES, History, Row, columns
from vggfast.engine.output import HISTORY, SETTINGS
from vggfast.errors import InputError


@dataclass(frozen=True)
class Run:
    """One run: its name on the page, its settings, its epochs, at least one, and what its task
    calls its two measures."""

    name: str
    settings: dict[str, Any]
    history: History
    measures: tuple[str, str] = ACCURACIES

    @property
    def best(self) -> Row:
        """The epoch that is best by the first measure, the first of equals."""
        return max(self.history, key=lambda row: (row.val_accuracy, -row.epoch))

    @property
    def seconds(self) -> float:
        """Of the training parts of all epochs."""
        return sum(row.seconds for row in self.history)


def read(folders: Sequence[Path]) -> list[Run]:
    """The runs in these folders, named by them.

    Raises:
        InputError: a folder holds no run, or one of which no epoch was completed.
    """
    short = [folder.resolve().name for folder in folders]
    names = short if len(set(short)) == len(short) else [str(folder) for folder in folders]
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings in which runs differ, with each run's value (None: it has no such setting)."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: v for name, v in values.items() if any(one != v[0] for one in v)}


def _read(folder: Path, name: str) -> Run:
    allowed = "allowed is the folder of a run of vggfast.train or vggfast.localize"
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        with (folder / HISTORY).open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            measures = _measures(reader.fieldnames or ())
            field = dict(zip(columns(measures), columns(ACCURACIES), strict=True))
            rows = [{field[name]: float(v) for name, v in row.items()} for row in reader]
        history = History.from_state([{**row, "epoch": int(row["epoch"])} for row in rows])
    except FileNotFoundError as error:
        missing = Path(str(error.filename)).name
        raise InputError(
            f"run: {folder} has no {missing}; {allowed}, of an epoch or more"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"run: cannot read {folder} ({error}); {allowed}") from None
    if not history or not isinstance(settings, dict):
        raise InputError(f"run: {folder} has no epochs; {allowed}, of an epoch or more")
    return Run(name, settings, history, measures)


def _measures(names: Sequence[str]) -> tuple[str, str]:
    """The measures by which a history of such columns has its figures."""
    if not names:
        return ACCURACIES
    first, second = (n.removeprefix("val_") for n in names if n[:4] == "val_" and n != "val_loss")
    return first, second
