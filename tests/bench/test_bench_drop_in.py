"""bench/drop_in.py on narrow networks and small images."""

from __future__ import annotations

import json
from pathlib import Path

import drop_in as speed
import pytest

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_network_is_compared_and_timed(tmp_path: Path) -> None:
    out = tmp_path / "r.json"
    assert speed.main(["--quick", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    kinds = {(row["network"], row["work"], row["layout"]) for row in rows}
    assert len(rows) == len(kinds) == len(speed.NETWORKS) * 4
    assert any(row["apart"][0] > 0 for row in rows)  # other code has run
    assert all(row["milliseconds"]["vggfast"] > 0 for row in rows)
    assert out.with_suffix(".md").read_text().count("\n") == len(rows) + 2


def test_results_that_differ_are_not_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speed, "LARGEST_ERROR", 0.0)
    assert speed.main(["--quick", "--nets", "ssd"]) == 1
    assert "results differ: ssd, contiguous, results: got" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv", [["--nets", "resnet"], ["--batch", "0"], ["--rounds", "0"], ["--out", "x.txt"]]
)
def test_bad_options(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(argv) == 2
    assert f"error: {argv[0]}: got" in capsys.readouterr().err
