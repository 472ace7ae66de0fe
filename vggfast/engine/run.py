"""From settings to a trained network: data, model, resumption, output folder, training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vggfast.backends import exact
from vggfast.data import DataSet
from vggfast.data.base import require
from vggfast.engine import checkpoint, output
from vggfast.engine.history import History
from vggfast.engine.output import Output
from vggfast.engine.progress import Progress, choose
from vggfast.engine.settings import Settings
from vggfast.engine.state import restore
from vggfast.engine.stop import on_sigterm
from vggfast.engine.task import CLASSIFICATION, Task
from vggfast.engine.trainer import Trainer
from vggfast.engine.world import World, join
from vggfast.errors import InputError
from vggfast.models.vgg import VGG
from vggfast.weights.format import first_mismatch


@dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
        model: the network as the last epoch left it, averaged if asked for, in eval mode.
        history: one row an epoch, those before a resumption too.
        best_accuracy: the best validation accuracy of an epoch, as a fraction; of another task
            than classification its first measure.
        best_epoch: the epoch it belongs to; ``best.safetensors`` holds its weights.
        classes: names of the classes in the order of the logits.
        mean, std: per RGB channel on a 0-255 scale, what images are normalised with.
        out: the folder with ``last.pt``, ``best.safetensors`` and more, or None.
    """

    model: VGG
    history: History
    best_accuracy: float
    best_epoch: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    out: Path | None


def run(
    given: dict[str, Any], *, resume: bool | str, shown: bool, task: Task = CLASSIFICATION
) -> Result:
    """Train with the ``given`` settings; see :func:`vggfast.train.fit`."""
    threads = torch.get_num_threads()
    with join() as world, on_sigterm() as stop:
        progress = choose(shown and world.first)
        try:
            with world.together():
                plan = _plan(given, resume, progress, world, task)
            # Wraps the network for gradients to be averaged, which all processes do or none.
            trainer = Trainer(
                plan.settings, plan.data, plan.model, plan.out, progress, world, stop, task
            )
            with world.together():
                plan.begin(trainer)
            _announce(trainer, progress)
            with exact(trainer.settings.exact):
                trainer.run()
        finally:
            progress.close()
            torch.set_num_threads(threads)
    data = trainer.data
    return Result(
        trainer.judged.eval(), trainer.history, trainer.best.accuracy, trainer.best.epoch,
        data.classes, data.mean, data.std, trainer.out.folder,
    )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """A run before its first step. ``state`` is of the checkpoint ``source``, if it goes on."""

    settings: Settings
    data: DataSet
    model: VGG
    out: Output
    source: Path | None
    state: dict[str, Any] | None

    def begin(self, trainer: Trainer) -> None:
        rank = trainer.world.rank
        if rank:
            torch.manual_seed(self.settings.seed + (rank << 32))  # each process's own dropout
        if self.state is not None:
            _restore(trainer, self.state, self.source)
        self.out.create(None if self.source is None else self.source.parent)


def _plan(
    given: dict[str, Any], resume: bool | str, progress: Progress, world: World, task: Task
) -> _Plan:
    source = _source(given.get("out"), resume)
    state = None if source is None else _load(source)
    settings = task.settings.make(given, None if state is None else state["settings"])
    folder = Path(settings.out) if settings.out else (source.parent if source else None)
    _check_output(settings, folder, source)
    data = task.load(settings)
    _check_world(settings, len(data.train), world)
    if state is not None:
        _check_same_data(source, state, data)
    torch.set_num_threads(settings.threads or torch.get_num_threads())
    torch.manual_seed(settings.seed)  # the same network in every process
    model = task.build(settings, data)
    if state is None:
        task.start(model, settings, progress)
    return _Plan(settings, data, model, Output(folder if world.first else None, settings),
                 source, state)  # fmt: skip


def _check_world(settings: Settings, images: int, world: World) -> None:
    """What several processes cannot do."""
    world.place(settings.torch_device)
    if world.size == 1:
        return
    if settings.graph:
        raise InputError(
            f"graph: got True in {world.size} processes, allowed is one process: a graph of the "
            "step does not average gradients"
        )
    least = images % settings.batch or settings.batch
    if settings.batch_norm and least < world.size:
        raise InputError(
            f"batch_norm: got True where the last batch has {least} of {images} images, allowed "
            f"are at least {world.size}, one for each process, or another batch or limit"
        )


def _source(out: str | None, resume: bool | str) -> Path | None:
    if resume is False:
        return None
    if resume is not True:
        return Path(resume) / output.LAST if Path(resume).is_dir() else Path(resume)
    if not out:
        raise InputError("resume: got neither a checkpoint nor out; allowed is one of them")
    return Path(out) / output.LAST


def _load(source: Path) -> dict[str, Any]:
    try:
        return checkpoint.load(source)
    except InputError as error:
        previous = source.with_name(output.PREVIOUS)
        if source.name != output.LAST or not previous.is_file():
            raise
        raise InputError(f"{error}; the checkpoint before it is {previous}") from None


def _check_output(settings: Settings, folder: Path | None, source: Path | None) -> None:
    if settings.tensorboard:
        if folder is None:
            raise InputError("tensorboard: got no out; allowed is with out, the folder to write to")
        require("tensorboard", "TensorBoard")
    if folder is None or not (folder / output.LAST).exists():
        return
    if source is None or source.resolve().parent != folder.resolve():
        raise InputError(
            f"out: {folder} already holds a run; allowed are resume, to continue it, or another out"
        )


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


def _restore(trainer: Trainer, state: dict[str, Any], source: Path | None) -> None:
    net = trainer.settings.net
    wrong = first_mismatch(trainer.model.state_dict(), state["model"])
    try:
        if wrong is not None:
            raise ValueError(wrong)
        restore(trainer, state)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"resume: {source} does not fit net {net} ({reason}); allowed is a checkpoint of the "
            "same run"
        ) from None


def _announce(trainer: Trainer, progress: Progress) -> None:
    settings, data = trainer.settings, trainer.data
    progress.note(
        f"net {settings.net} on {settings.data}: {len(data.train)} images to train, "
        f"{len(data.val)} held out, {len(data.classes)} classes, {settings.size}x{settings.size}, "
        f"{trainer.device}{f' x {trainer.world.size}' if trainer.world.size > 1 else ''}, "
        f"{str(trainer.dtype).removeprefix('torch.')}"
    )
    if trainer.done >= settings.epochs:
        progress.note(f"nothing to do: {trainer.done} epochs are done, {settings.epochs} asked for")
    elif trainer.at.step:
        at = f"step {trainer.at.step} of {trainer.steps} of epoch {trainer.done + 1}"
        progress.note(f"resuming after {at}")
    elif trainer.done:
        progress.note(f"resuming after epoch {trainer.done}")
