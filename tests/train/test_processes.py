"""Two processes train as one does on the same global batches; a failure of one ends all."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vggfast
from vggfast.data import Batches, load
from vggfast.engine import checkpoint
from vggfast.engine.evaluate import evaluate
from vggfast.weights import load_weights

from .helpers import write_idx
from .narrow import COMMON, Run

TOLERANCE = 2e-5  # of the largest weight: the sums over images are split differently


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def pair(argv: list[str], folder: Path, other: list[str] | None = None) -> tuple[list[int], str]:
    """Exit codes of two processes, and what they print; ``other``: what the second gets."""
    port, log = free_port(), folder / "log"
    arguments = (argv, argv if other is None else other)
    both = [Run(arguments[rank], log, rank, 2, port) for rank in (0, 1)]
    return [run.wait() for run in both], log.read_text()


def rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def arguments(folder: Path, *more: str) -> list[str]:
    """9 images in batches of 4: the last step has one, and the first process none."""
    data = folder / "idx"
    if not data.exists():
        write_idx(data, train=9)
    return ["--data", f"fashion-mnist:{data}", "--batch", "4", "--lr", "0.05", "--dropout", "0",
            "--epochs", "2", *more]  # fmt: skip


def test_two_processes_train_as_one(tmp_path: Path, narrow: None) -> None:
    argv = arguments(tmp_path, "--ema", "0.5", "--schedule", "cosine", "--label-smoothing", "0.1")
    one, two = tmp_path / "one", tmp_path / "two"
    assert Run([*argv, "--out", str(one)], tmp_path / "log1").wait() == 0
    codes, log = pair([*argv, "--out", str(two)], tmp_path)
    assert codes == [0, 0], log
    a, b = (checkpoint.load(f / "last.pt") for f in (one, two))
    torch.manual_seed(0)  # the default seed, of which the runs' weights are
    start = vggfast.vgg("A", num_classes=10, crop=32).state_dict()
    for name, t in a["model"].items():
        distance = (t - b["model"][name]).abs().max().item()
        assert distance <= TOLERANCE * t.abs().max().item(), name
        moved = (t - start[name]).abs().max().item()
        assert distance <= moved / 100, name  # the comparison is not of weights at rest
    for x, y in zip(rows(one), rows(two), strict=True):
        assert x["train_loss"] == pytest.approx(y["train_loss"], rel=1e-5)
        assert x["val_loss"] == pytest.approx(y["val_loss"], rel=1e-5)
        assert (x["train_accuracy"], x["val_accuracy"]) == (y["train_accuracy"], y["val_accuracy"])
    assert len(b["rng"]) == 2
    assert log.count("epoch 1/2") == 1  # only the first shows and writes
    assert "cpu x 2" in log


def test_the_network_that_is_evaluated_is_the_one_that_is_kept(
    tmp_path: Path, narrow: None
) -> None:
    """Each process has batch normalisation's statistics of its own images; the first's are kept."""
    argv = arguments(tmp_path, "--batch-norm", "--limit", "8", "--lr", "0.01")
    codes, log = pair([*argv, "--out", str(tmp_path / "run")], tmp_path)
    assert codes == [0, 0], log
    model = load_weights(tmp_path / "run" / "last.safetensors").model
    data = load(f"fashion-mnist:{tmp_path / 'idx'}", size=32, scale=(32, 32), limit=8)
    found = evaluate(model, Batches(data.val, 4, shuffle=False).epoch())
    assert rows(tmp_path / "run")[-1]["val_loss"] == pytest.approx(found.loss, rel=1e-5)


def test_bad_images_of_all_processes_are_told(tmp_path: Path, photos: Path) -> None:
    bad = sorted((photos / "val" / "flower").iterdir())[-1]  # in the second process's share
    bad.write_bytes(bad.read_bytes()[:300])
    argv = ["--data", str(photos), "--size", "32", "--batch", "4", "--epochs", "1", "--dropout",
            "0", "--on-bad-image", "skip", "--out", str(tmp_path / "run")]  # fmt: skip
    codes, log = pair(argv, tmp_path)
    assert codes == [0, 0], log
    assert log.count(f"left out {bad.relative_to(photos)}: cannot read image") == 1, log
    assert "epoch 1: 0 training images were replaced, 1 validation images left out" in log


def test_two_processes_resume_bit_for_bit(tmp_path: Path) -> None:
    argv = [*arguments(tmp_path, "--quiet"), "--dropout", "0.5"]
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert pair([*argv, "--out", str(straight)], tmp_path)[0] == [0, 0]
    first = [*argv, "--epochs", "1", "--checkpoint-every", "2", "--out", str(broken)]
    assert pair(first, tmp_path)[0] == [0, 0]
    (broken / "last.pt").unlink()
    (broken / "previous.pt").rename(broken / "last.pt")
    assert checkpoint.load(broken / "last.pt")["position"]["step"] == 2
    codes, log = pair([*argv, "--out", str(broken), "--resume"], tmp_path)
    assert codes == [0, 0], log
    a, b = (checkpoint.load(f / "last.pt")["model"] for f in (straight, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_bad_input_is_told_once_wherever_it_is_found(tmp_path: Path) -> None:
    argv = arguments(tmp_path, "--out", str(tmp_path / "run"))
    codes, log = pair([*argv, "--lr", "-1"], tmp_path)
    assert codes == [2, 2]
    assert log == "error: lr: got -1.0, allowed is a finite number above 0\n"
    (tmp_path / "log").unlink()
    codes, log = pair(argv, tmp_path, [*argv, "--data", f"mnist:{tmp_path / 'none'}"])
    assert codes == [2, 2]
    assert log.startswith("error: rank 1: data: no folder")
    assert log.count("\n") == 1
    (tmp_path / "log").unlink()
    codes, log = pair([*argv, "--batch-norm"], tmp_path)
    assert codes == [2, 2]
    assert log.startswith("error: batch_norm: got True where the last batch has 1 of 9 images")
    assert not (tmp_path / "run").exists()


def test_sigterm_to_one_stops_both_at_the_same_step(tmp_path: Path) -> None:
    argv = arguments(tmp_path, "--quiet", "--out", str(tmp_path / "run"), "--checkpoint-every", "1")
    port, log = free_port(), tmp_path / "log"
    both = [Run([*argv, "--epochs", "100000"], log, rank, 2, port) for rank in (0, 1)]
    for _ in range(600):
        if (tmp_path / "run" / "last.pt").exists():
            break
        time.sleep(0.05)
    both[1].process.terminate()
    assert [run.wait() for run in both] == [143, 143], log.read_text()
    assert log.read_text().count("\n") == 1
    assert "stopped by SIGTERM; " in log.read_text()
    checkpoint.load(tmp_path / "run" / "last.pt")


def torchrun(argv: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    root = str(Path(vggfast.__file__).parents[1])
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", str(free_port())]  # fmt: skip
    return subprocess.run(
        [*command, "-m", "tests.train.narrow", *argv], capture_output=True, text=True, check=False,
        cwd=root, timeout=seconds, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.long
def test_torchrun_starts_them(tmp_path: Path) -> None:
    done = torchrun(arguments(tmp_path, "--out", str(tmp_path / "run")), 120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 2/2") == 1
    assert (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.long
def test_a_failure_in_one_process_ends_all(tmp_path: Path, photos: Path) -> None:
    """A validation image of the second process's share cannot be read."""
    bad = sorted((photos / "val" / "flower").iterdir())[-1]
    bad.write_bytes(bad.read_bytes()[:300])
    argv = ["--data", str(photos), "--size", "32", "--batch", "4", "--epochs", "1", *COMMON]
    done = torchrun([*argv, "--out", str(tmp_path / "run")], 120)
    assert done.returncode != 0
    assert f"error: rank 1: data: cannot read image {bad}" in done.stderr
    assert not (tmp_path / "run" / "last.pt").exists()
