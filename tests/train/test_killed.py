"""Runs that are killed or taken back: the checkpoint is whole, and they end as if nothing was."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from vggfast.engine import checkpoint, checks, trainer
from vggfast.engine.step import Step
from vggfast.errors import InputError
from vggfast.train.cli import main
from vggfast.weights import load_weights

from .helpers import write_idx
from .narrow import Run, train

STEPS = 25  # of an epoch


def arguments(folder: Path, epochs: int = 3) -> list[str]:
    data = folder / "idx"
    if not data.exists():
        write_idx(data, train=4 * STEPS)
    return ["--data", f"fashion-mnist:{data}", "--batch", "4", "--lr", "0.02", "--seed", "3",
            "--epochs", str(epochs), "--ema", "0.9", "--quiet"]  # fmt: skip


def last(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder / "last.pt")
    return {**state["model"], **{f"ema {k}": t for k, t in state["ema"]["model"].items()}}


def same(one: Path, two: Path) -> bool:
    """Whether two finished runs have the same weights, bit for bit, and the same figures."""
    a, b = last(one), last(two)
    assert a.keys() == b.keys()
    rows = [
        [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s", "waited")}
         for row in checkpoint.load(folder / "last.pt")["history"]]
        for folder in (one, two)
    ]  # fmt: skip
    files = [load(folder) for folder in (one, two)]
    return all(torch.equal(a[k], b[k]) for k in a) and rows[0] == rows[1] and files[0] == files[1]


def load(folder: Path) -> tuple[bytes, bytes]:
    """The tensors of both weights files."""
    with_header = [(folder / f"{n}.safetensors").read_bytes() for n in ("best", "last")]
    raw = [b[8 + int.from_bytes(b[:8], "little") :] for b in with_header]
    return raw[0], raw[1]


def wait_for_another(path: Path, seen: list[tuple[int, int]], seconds: float = 60) -> None:
    """Wait for a checkpoint after those ``seen``."""
    inode = path.stat().st_ino if seen else None
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.stat().st_ino != inode:
            return
        time.sleep(0.002)
    raise AssertionError(f"no new {path}")


@pytest.mark.parametrize(
    "kills", [3, pytest.param(20, marks=pytest.mark.long)], ids=["three", "twenty"]
)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(
    tmp_path: Path, narrow: None, kills: int
) -> None:
    rng = random.Random(kills)
    straight, killed, log = tmp_path / "straight", tmp_path / "killed", tmp_path / "log"
    argv = arguments(tmp_path, 2 * kills)
    assert Run([*argv, "--out", str(straight)], log).wait() == 0, log.read_text()
    seen = []
    for _ in range(kills):
        resume = ["--resume"] if seen else []
        run = Run([*argv, "--out", str(killed), "--checkpoint-every", "1", *resume], log)
        wait_for_another(killed / "last.pt", seen)
        time.sleep(rng.uniform(0, 0.2))
        run.process.kill()
        assert run.wait() == -signal.SIGKILL, "it was done too soon"
        state = checkpoint.load(killed / "last.pt")  # whole, or this raises
        seen.append((state["epoch"], state["position"]["step"]))
        if (killed / "best.safetensors").exists():
            load_weights(killed / "best.safetensors")
    assert seen == sorted(set(seen))
    run = Run([*argv, "--out", str(killed), "--resume"], log)
    assert run.wait() == 0, log.read_text()
    assert same(straight, killed)
    assert not list(killed.glob(".*"))


@pytest.mark.parametrize("moment", [1, 7, STEPS, STEPS + 3])
def test_sigterm_finishes_the_step_and_a_resumed_run_ends_the_same(
    tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], moment: int,
) -> None:  # fmt: skip
    argv = arguments(tmp_path, 2)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train([*argv, "--out", str(straight)]) == 0
    step, calls = Step.__call__, 0

    def interrupted(self: Step, x: torch.Tensor, y: torch.Tensor, images: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == moment:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, x, y, images)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(Step, "__call__", interrupted)
    assert train([*argv, "--out", str(stopped)]) == 143
    assert calls == moment
    assert signal.getsignal(signal.SIGTERM) is before
    epoch, at = divmod(moment - 1, STEPS)
    error = capsys.readouterr().err
    assert f"{at + 1} of {STEPS} steps of epoch {epoch + 1}; continue it with --resume" in error
    assert error.startswith("error: stopped by SIGTERM; ")
    monkeypatch.undo()
    state = checkpoint.load(stopped / "last.pt")
    assert (state["epoch"], state["position"]["step"]) == (epoch, at + 1)
    assert train([*argv, "--out", str(stopped), "--resume"]) == 0
    assert same(straight, stopped)


def test_sigterm_while_evaluating(
    tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = arguments(tmp_path, 2)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    assert train([*argv, "--out", str(straight)]) == 0
    evaluate = trainer.evaluate

    def interrupted(*args: object, **options: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    assert train([*argv, "--out", str(stopped)]) == 143
    monkeypatch.setattr(trainer, "evaluate", evaluate)
    assert checkpoint.load(stopped / "last.pt")["position"]["step"] == STEPS
    assert train([*argv, "--out", str(stopped), "--resume"]) == 0
    assert same(straight, stopped)


def test_sigterm_to_a_process_and_its_workers(tmp_path: Path) -> None:
    """As Slurm sends it: to every process of the job."""
    argv = [*arguments(tmp_path, 50), "--workers", "1", "--checkpoint-every", "2"]
    out, log = tmp_path / "run", tmp_path / "log"
    run = Run([*argv, "--out", str(out)], log)
    for _ in range(600):
        if (out / "last.pt").exists():
            break
        time.sleep(0.05)
    children = Path(f"/proc/{run.process.pid}/task/{run.process.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc to find the worker process")
    (worker,) = (int(n) for n in children.read_text().split())
    os.kill(worker, signal.SIGTERM)
    time.sleep(0.5)  # some steps, which need the worker
    assert run.process.is_alive(), log.read_text()
    run.process.terminate()
    assert run.wait() == 143, log.read_text()
    assert log.read_text().count("\n") == 1
    assert "stopped by SIGTERM" in log.read_text()
    checkpoint.load(out / "last.pt")


def test_a_folder_in_which_a_run_is_under_way_is_left_alone(
    tmp_path: Path, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    run = Run([*arguments(tmp_path, 10000), "--out", str(out)], log)
    wait_for_another(out / "last.pt", [])
    resume = ["--resume", str(out), "--epochs", "1", "--quiet"]
    assert train(resume) == 2
    assert f"out: another process is training in {out}; allowed" in capsys.readouterr().err
    assert run.process.is_alive()
    run.process.kill()
    assert run.wait() == -signal.SIGKILL
    assert train(resume) == 0  # there is nothing left to do, but the folder is free
    assert train(resume) == 0


def test_a_damaged_checkpoint_names_the_one_before_it(
    tmp_path: Path, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, out = arguments(tmp_path, 2), tmp_path / "run"
    assert train([*argv, "--out", str(out)]) == 0
    whole = (out / "last.pt").read_bytes()
    (out / "last.pt").write_bytes(whole[:-20])
    assert main([*argv, "--out", str(out), "--resume"]) == 2
    assert f"the checkpoint before it is {out / 'previous.pt'}" in capsys.readouterr().err
    assert train([*argv, "--resume", str(out / "previous.pt")]) == 0
    expected = tmp_path / "whole.pt"
    expected.write_bytes(whole)
    old = checkpoint.load(expected)["model"]
    new = checkpoint.load(out / "last.pt")["model"]
    assert all(torch.equal(old[k], new[k]) for k in old)


def test_checkpoints_within_an_epoch(
    tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv, positions = arguments(tmp_path, 2), []
    save = checkpoint.save

    def seen(path: Path, state: dict[str, object]) -> None:
        positions.append((state["epoch"], state["position"]["step"]))  # type: ignore[index]
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", seen)
    assert train([*argv, "--out", str(tmp_path / "a"), "--checkpoint-every", "10"]) == 0
    assert positions == [(0, 10), (0, 20), (1, 0), (1, 5), (1, 15), (1, 25), (2, 0)]
    positions.clear()
    monkeypatch.setattr(trainer.time, "monotonic", iter(range(0, 10**6, 50)).__next__)
    assert train([*argv, "--out", str(tmp_path / "b"), "--checkpoint-every", "10m"]) == 0
    assert len(positions) > 4
    assert same(tmp_path / "a", tmp_path / "b")


def test_weights_that_are_not_finite_are_not_kept(
    tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The loss before a step says nothing of the weights after it."""
    argv, out, step, calls = arguments(tmp_path, 1), tmp_path / "run", Step.__call__, 0

    def spoilt(self: Step, x: torch.Tensor, y: torch.Tensor, images: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        seen = step(self, x, y, images)
        if calls == 6:
            with torch.no_grad():
                self._model.features[0].weight[0, 0] = torch.inf  # type: ignore[index]
        return seen

    monkeypatch.setattr(Step, "__call__", spoilt)
    assert train([*argv, "--out", str(out), "--checkpoint-every", "3"]) == 1
    line = capsys.readouterr().err
    assert "iteration 6 (epoch 1, step 6), in features.0.weight" in line
    assert f"{out / 'last.pt'} holds 3 of 25 steps of epoch 1" in line
    assert checkpoint.load(out / "last.pt")["position"]["step"] == 3


def test_a_checkpoint_that_does_not_fit_names_the_first_tensor(
    tmp_path: Path, narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    argv, out = arguments(tmp_path, 1), tmp_path / "run"
    assert train([*argv, "--out", str(out)]) == 0
    path = out / "last.pt"
    state = checkpoint.load(path)
    state["model"]["features.3.weight"] = torch.zeros(4, 8, 3, 3)
    checkpoint.save(path, state)
    assert train([*argv, "--epochs", "2", "--out", str(out), "--resume"]) == 2
    assert (
        "does not fit net A (features.3.weight has shape (4, 8, 3, 3), not (16, 8, 3, 3))"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("value", ["0", "m", "-1", "1.5", "10s"])
def test_an_interval_that_is_none(value: str) -> None:
    with pytest.raises(InputError, match="checkpoint_every: got"):
        checks.interval(value)
