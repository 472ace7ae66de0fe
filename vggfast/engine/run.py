"""From settings to a trained network: data, model, resumption, output folder, training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vggfast.backends import exact
from vggfast.data import DataSet, load
from vggfast.data.base import require
from vggfast.engine import checkpoint
from vggfast.engine.history import History
from vggfast.engine.progress import Progress, choose
from vggfast.engine.settings import Settings
from vggfast.engine.trainer import Trainer
from vggfast.errors import InputError
from vggfast.models.vgg import VGG, vgg


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        model: the network as the last epoch left it, in eval mode.
        history: one row an epoch, those before a resumption too.
        best_accuracy: the best validation accuracy of an epoch, as a fraction.
        best_epoch: the epoch it belongs to; ``best.pt`` holds its weights.
        classes: names of the classes in the order of the logits.
        mean, std: per RGB channel on a 0-255 scale, what images are normalised with.
        out: the folder with ``last.pt``, ``best.pt`` and ``history.csv``, or None.
    """

    model: VGG
    history: History
    best_accuracy: float
    best_epoch: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    out: Path | None


def run(given: dict[str, Any], *, resume: bool | str, shown: bool) -> Result:
    """Train with the ``given`` settings; see :func:`vggfast.train.fit`."""
    source = _source(given.get("out"), resume)
    state = None if source is None else checkpoint.load(source)
    settings = Settings.make(given, None if state is None else state["settings"])
    folder = Path(settings.out) if settings.out else (source.parent if source else None)
    _check_output(settings, folder, source)
    data = load(
        settings.data,
        size=settings.size,
        scale=settings.scales,
        flip=settings.flip,
        limit=settings.limit,
    )
    if state is not None:
        _check_same_data(source, state, data)
    threads = torch.get_num_threads()
    progress = choose(shown)
    try:
        torch.set_num_threads(settings.threads or threads)
        trainer = _trainer(settings, data, folder, state, source, progress)
        if folder is not None:
            _create(folder)
        _announce(trainer, progress)
        with exact(settings.exact):
            trainer.run()
    finally:
        progress.close()
        torch.set_num_threads(threads)
    return Result(
        trainer.model.eval(), trainer.history, trainer.best.accuracy, trainer.best.epoch,
        data.classes, data.mean, data.std, folder,
    )  # fmt: skip


def _source(out: str | None, resume: bool | str) -> Path | None:
    if resume is False:
        return None
    if resume is not True:
        return Path(resume)
    if not out:
        raise InputError("resume: got neither a checkpoint nor out; allowed is one of them")
    return Path(out) / "last.pt"


def _check_output(settings: Settings, folder: Path | None, source: Path | None) -> None:
    if settings.tensorboard:
        if folder is None:
            raise InputError("tensorboard: got no out; allowed is with out, the folder to write to")
        require("tensorboard", "TensorBoard")
    if folder is None or not (folder / "last.pt").exists():
        return
    if source is None or source.resolve().parent != folder.resolve():
        raise InputError(
            f"out: {folder} already holds a run; allowed are resume, to continue it, or another out"
        )


def _create(folder: Path) -> None:
    """Create the output folder and see that it can be written to, before hours of training."""
    trial = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"out: cannot write to {folder} ({error.strerror}); allowed is a folder that can be "
            "written to"
        ) from None


def _check_same_data(source: Path | None, state: dict[str, Any], data: DataSet) -> None:
    """Classes and number of images must be the same, mean and deviation but for rounding."""
    saved = state["data"]
    other = None
    if list(data.classes) != saved["classes"]:
        other = "classes"
    elif len(data.train) != saved["images"]:
        other = f"images ({saved['images']}, not {len(data.train)})"
    elif not torch.allclose(
        torch.tensor([data.mean, data.std]), torch.tensor([saved["mean"], saved["std"]]), rtol=1e-3
    ):
        other = "images (mean or deviation differ)"
    if other is not None:
        raise InputError(f"resume: {source} was trained on other {other}; allowed is the same data")


def _trainer(
    settings: Settings,
    data: DataSet,
    folder: Path | None,
    state: dict[str, Any] | None,
    source: Path | None,
    progress: Progress,
) -> Trainer:
    torch.manual_seed(settings.seed)
    model = vgg(
        settings.net,
        num_classes=len(data.classes),
        batch_norm=settings.batch_norm,
        dropout=settings.dropout,
        crop=settings.size,
        init=settings.init,
        backend=settings.backend,
    )
    trainer = Trainer(settings, data, model, folder, progress)
    if state is not None:
        try:
            trainer.restore(state)
        except (RuntimeError, ValueError, LookupError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"resume: {source} does not fit net {settings.net} ({reason}); allowed is a "
                "checkpoint of the same run"
            ) from None
    return trainer


def _announce(trainer: Trainer, progress: Progress) -> None:
    settings, data = trainer.settings, trainer.data
    progress.note(
        f"net {settings.net} on {settings.data}: {len(data.train)} images to train, "
        f"{len(data.val)} held out, {len(data.classes)} classes, {settings.size}x{settings.size}, "
        f"{trainer.device}, {settings.dtype}"
    )
    if trainer.done >= settings.epochs:
        progress.note(f"nothing to do: {trainer.done} epochs are done, {settings.epochs} asked for")
    elif trainer.done:
        progress.note(f"resuming after epoch {trainer.done}")
