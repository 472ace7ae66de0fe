"""bench/localize_study.py and bench/localize_speed.py on a tiny budget."""

from __future__ import annotations

import json
from pathlib import Path

import localize_speed as timing
import localize_study
import pytest

from tests.train.helpers import narrow_nets
from vggfast import localize

pytest.importorskip("sklearn")
pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    narrow_nets(monkeypatch)


@pytest.fixture
def argv(tmp_path: Path) -> list[str]:
    epochs = [f"--{name}epochs=1" for name in ("item-", "class-", "fc-", "")]
    return [
        "--data", "digits", "--train", "60", "--val", "40", *epochs, "--batch", "8",
        "--device", "cpu", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "study.json"),
    ]  # fmt: skip


def test_a_study_is_done_once_and_only_as_it_was(
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained: list[tuple[str, str]] = []
    fit = localize.fit
    monkeypatch.setattr(
        localize, "fit", lambda **s: trained.append((s["boxes"], s["tune"])) or fit(**s)
    )
    assert localize_study.main(argv) == 0
    assert trained == list(localize_study.KINDS)
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["command"].startswith("python bench/localize_study.py --data digits")
    assert set(record["training"]) == {"items", "classes", "scr-all", "pcr-all", "scr-fc", "pcr-fc"}
    rows = [(r["training"], r["boxes"], r["protocol"], r["scales"]) for r in record["rows"]]
    assert rows == [
        (f"{kind}-{tune}", kind, protocol, scales)
        for kind, tune in localize_study.KINDS
        for protocol, scales in (("centre", [64]), ("full", [64]), ("full", [64, 96]))
    ]
    assert all(r["error"]["images"] == 40 for r in record["rows"])
    text = (tmp_path / "study.md").read_text()
    assert record["command"] in text
    assert text.count("\n| ") == 2 + len(rows)

    assert localize_study.main(argv) == 0
    assert len(trained) == 4
    assert json.loads((tmp_path / "study.json").read_text())["rows"] == record["rows"]

    for change, words in (
        (["--lr", "0.1"], "trained with lr 0.03, not 0.1"),
        (["--train", "50"], "holds other canvases"),
        (["--data", "mnist"], "holds other canvases"),
    ):
        assert localize_study.main([*argv, *change]) == 2
        assert words in capsys.readouterr().err


def test_timings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(timing, "SIZES", ((256, 288),))
    assert timing.main(["--net", "A", "--batch", "2", "--repeats", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("| 256 × 288 | 6 |")
    assert all(float(cell) > 0 for cell in line.split("|")[3:6])
