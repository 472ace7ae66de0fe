"""bench/perceptual.py: a small run from end to end, a wrong result, and bad arguments."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("skimage")

import perceptual as command

SMALL = ["--size", "32", "--net", "A", "--rounds", "2"]


@pytest.mark.parametrize("pool", ["average", "max"])
def test_a_small_run(pool, tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert command.main([*SMALL, "--pool", pool, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["mode"], row["contender"]) for row in rows] == [
        (mode, name)
        for mode in ("reconstruct", "transfer")
        for name in ("vggfast", "torch contiguous", "torch channels_last")
    ]
    assert all(row["n"] == 2 and row["median_ms"] > 0 for row in rows)
    assert all(row["speedup"]["n"] == 2 for row in rows if row["contender"] != "vggfast")
    assert "relative error" in capsys.readouterr().out


def test_a_wrong_gradient_is_not_timed(monkeypatch, capsys):
    real = command.step

    def wrong(loss, x):
        value, grad = real(loss, x)
        return value, grad.flip(-1)

    monkeypatch.setattr(command, "step", wrong)
    plain = command.compare

    def compare(each):
        monkeypatch.setattr(command, "step", lambda loss, x: real(loss, x)
                            if loss is each.exact else wrong(loss, x))  # fmt: skip
        return plain(each)

    monkeypatch.setattr(command, "compare", compare)
    assert command.main([*SMALL, "--mode", "transfer"]) == 1
    captured = capsys.readouterr()
    assert "gradient: error" in captured.err
    assert " ms" not in captured.out


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--rounds", "0"], "--rounds: got 0"), (["--net", "F"], "--net"),
     (["--size", "8"], "--size: got 8"), (["--out", "/nowhere/x.json"], "folder does not exist"),
     (["--device", "nonsense"], "--device: got 'nonsense'")],
)  # fmt: skip
def test_bad_arguments(argv, message, capsys):
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
