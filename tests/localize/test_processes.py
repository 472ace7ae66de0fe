"""Two processes train and measure as one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vggfast
from vggfast.localize.cli import main
from vggfast.weights.format import read

ROOT = Path(vggfast.__file__).parents[1]
COMMAND = [str(Path(__file__).with_name("narrow_command.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(*argv: str) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, *COMMAND, *argv],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_two_processes_are_one(canvases: Path, classifier: Path, tmp_path: Path) -> None:
    data = ["--data", f"imagenet:{canvases}", "--device", "cpu", "--quiet"]
    train = ["train", *data, "--init-from", str(classifier), "--epochs", "1", "--batch", "7",
             "--dropout", "0", "--lr", "0.01"]  # fmt: skip
    runs = {name: tmp_path / name for name in ("one", "two")}
    assert main([*train, "--out", str(runs["one"])]) == 0
    torchrun(*train, "--out", str(runs["two"]))
    one, two = (read(run / "last.safetensors")[1] for run in runs.values())
    for name, tensor in one.items():
        assert float((tensor - two[name]).abs().max()) < 1e-5, name
    measure = ["evaluate", *data, "--weights", str(runs["one"] / "last.safetensors")]
    for protocol in (["--protocol", "full", "--classifier", str(classifier)], []):
        assert main([*measure, *protocol, "--json", str(tmp_path / "one.json")]) == 0
        torchrun(*measure, *protocol, "--json", str(tmp_path / "two.json"))
        found = [json.loads((tmp_path / f"{n}.json").read_text()) for n in ("one", "two")]
        assert found[0]["row"].pop("mean_iou") == pytest.approx(found[1]["row"].pop("mean_iou"))
        assert found[0] == found[1]
