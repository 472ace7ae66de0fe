"""What fails while a run is under way: one line that says what to do, and nothing is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from vggfast.engine import checkpoint
from vggfast.engine.failures import explained
from vggfast.engine.step import Step
from vggfast.engine.trainer import Trainer

from .narrow import train

CPU_OUT_OF_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
)


def arguments(photos: Path, out: Path) -> list[str]:
    return ["--data", str(photos), "--size", "32", "--batch", "2", "--epochs", "2", "--quiet",
            "--out", str(out)]  # fmt: skip


def line(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    return printed


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError(CPU_OUT_OF_MEMORY)]
)
def test_a_batch_that_does_not_fit_into_memory(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], error: RuntimeError,
) -> None:  # fmt: skip
    step, calls = Step.__call__, 0

    def full(self: Step, x: torch.Tensor, y: torch.Tensor, images: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise error
        return step(self, x, y, images)

    monkeypatch.setattr(Step, "__call__", full)
    out = tmp_path / "run"
    assert train(arguments(photos, out)) == 2
    said = line(capsys)
    assert "micro_batch: out of memory (" in said
    assert f"({out / 'last.pt'} holds epoch 1; continue it with --resume)" in said


def test_other_errors_are_not_explained_away() -> None:
    assert explained(RuntimeError("shape mismatch"), "batch") is None
    assert explained(RuntimeError(), "batch") is None


def test_a_worker_that_is_killed(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """As the kernel does when memory is short."""
    book, calls = Trainer._book, 0

    def kill(self: Trainer, *args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 2:
            (worker,) = self.train_batches._loader._iterator._workers  # type: ignore[union-attr]
            os.kill(worker.pid, signal.SIGKILL)
            worker.join(10)
        return book(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_book", kill)
    assert train([*arguments(photos, tmp_path / "run"), "--workers", "1"]) == 2
    assert "workers: one has ended (DataLoader worker" in line(capsys)


def test_files_that_cannot_be_written(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    (out / "history.csv" / "full").mkdir(parents=True)
    assert train(arguments(photos, out)) == 2
    assert f"out: cannot write {out / 'history.csv'} (Is a directory)" in line(capsys)
    assert checkpoint.load(out / "last.pt")["epoch"] == 1
    pytest.importorskip("tensorboard")
    other = tmp_path / "other"
    other.mkdir()
    (other / "tensorboard").write_text("a file")
    assert train([*arguments(photos, other), "--tensorboard"]) == 2
    assert f"tensorboard: cannot write {other / 'tensorboard'} (" in line(capsys)


def test_weights_that_are_not_finite_do_not_replace_the_best(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The bias of a class that is never right may be minus infinity, and accuracy finite."""
    out, epoch = tmp_path / "run", Trainer._train

    def spoilt(self: Trainer, number: int) -> None:
        epoch(self, number)
        self.best.accuracy = -1.0  # the second epoch is better, whatever it is
        if number == 2:
            with torch.no_grad():
                self.model.features[0].bias[0] = -torch.inf

    monkeypatch.setattr(Trainer, "_train", spoilt)
    assert train(arguments(photos, out)) == 1
    assert "in features.0.bias with lr" in line(capsys)
    with safe_open(out / "best.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "1"
