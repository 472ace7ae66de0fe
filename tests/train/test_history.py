"""What a run shows and writes beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

from vggfast.engine.history import Row, TensorBoard
from vggfast.engine.progress import Bar, Lines, Progress, choose

ROW = Row(2, 0.01, 0.5, 0.875, 0.25, 0.9375, 1.0, 3.0, 480.0, 0.25)


def test_a_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    lines = choose(True)  # pytest's stdout is no terminal
    assert type(lines) is Lines
    lines.start(2, 7, 1440)
    lines.step(32, 0.6)
    lines.end(ROW, 7, best=True)
    assert capsys.readouterr().out == (
        "epoch 2/7  loss 0.5000  val loss 0.2500  val accuracy 93.75%  lr 0.01  "
        "480.0 images/s  3.0 s  best\n"
    )
    assert type(choose(False)) is Progress


def test_the_bar_shows_speed_and_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    bar = Bar()
    bar.note("net A [on] digits")
    bar.start(2, 7, 64)
    bar.step(32, 0.6789)
    bar.step(32, 0.5678)
    bar._bar.refresh()
    bar.end(ROW, 7, best=False)
    bar.close()
    printed = capsys.readouterr().out
    assert "net A [on] digits" in printed
    assert "0.5678" in printed
    assert "64/64" in printed
    assert "val accuracy 93.75%" in printed


def test_tensorboard_scalars(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path, first=2)
    board.add(ROW)
    board.close()
    read = events.EventAccumulator(str(tmp_path))
    read.Reload()
    (scalar,) = read.Scalars("val_accuracy")
    assert (scalar.step, scalar.value) == (2, 0.9375)
    assert "images_per_s" in read.Tags()["scalars"]
