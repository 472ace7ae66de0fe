"""Training the whole net A on scikit-learn's digits: it learns."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from vggfast.engine import checkpoint
from vggfast.train import fit
from vggfast.train.cli import main


def test_the_command_trains_on_digits_and_the_loss_falls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--data", "digits", "--net", "A", "--epochs", "2", "--threads", "1"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert printed.count("images/s") == 2
    assert "kept in runs/digits-A" in printed
    first, second = checkpoint.load(tmp_path / "runs" / "digits-A" / "last.pt")["history"]
    assert second["train_loss"] < 0.85 * first["train_loss"]
    assert second["val_accuracy"] > 0.5  # chance is a tenth
    shutil.rmtree(tmp_path / "runs")


@pytest.mark.long
def test_digits_are_learnt_in_five_minutes() -> None:
    start = time.monotonic()
    result = fit(data="digits", net="A", progress=False)
    assert result.best_accuracy >= 0.97
    assert time.monotonic() - start < 300
