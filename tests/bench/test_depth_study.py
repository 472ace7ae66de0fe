"""bench/depth_study.py on a tiny budget: trains, evaluates, and does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import depth_study
import pytest
import torch

from tests.train.helpers import narrow_nets, write_idx

pytest.importorskip("pyarrow")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def argv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    narrow_nets(monkeypatch)
    write_idx(tmp_path / "idx")
    return [
        "--data", f"fashion-mnist:{tmp_path / 'idx'}", "--nets", "A,B", "--scales", "32,36",
        "--limit", "16", "--test-limit", "12", "--runs", str(tmp_path / "runs"),
        "--out", str(tmp_path / "study.json"), "--device", "cpu",
    ]  # fmt: skip


def test_a_study_is_done_once(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fit = depth_study.fit
    monkeypatch.setattr(depth_study, "fit", lambda **s: trained.append(s["net"]) or fit(**s))
    assert depth_study.main([*argv, "--epochs", "1", "--staged"]) == 0
    assert trained == ["A", "B"]
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["command"].startswith("python bench/depth_study.py --data fashion-mnist:")
    assert set(record["training"]) == {"A", "B"}
    assert record["training"]["B"]["settings"]["init_from"].endswith("A/last.safetensors")
    assert record["versions"]["torch"] == torch.__version__
    rows = [(r["net"], r["scales"], r["protocol"]) for r in record["rows"]]
    one = [
        *(([q], p) for p in ("single", "dense", "multicrop") for q in (32, 36)),
        *(([32, 36], p) for p in ("single", "dense", "multicrop", "both")),
    ]
    assert sorted(rows) == sorted(
        [(net, q, p) for net in ("A", "B") for q, p in one]
        + [("A + B", [32, 36], p) for p in ("dense", "multicrop", "both")]
    )
    assert all(r["top1"]["images"] == 12 for r in record["rows"])
    text = (tmp_path / "study.md").read_text()
    assert record["command"] in text
    assert text.count("\n| ") == 1 + len(rows)

    assert depth_study.main([*argv, "--epochs", "1", "--staged"]) == 0
    assert trained == ["A", "B"]
    assert json.loads((tmp_path / "study.json").read_text())["rows"] == record["rows"]


def test_nets_of_another_study_are_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert depth_study.main([*argv, "--epochs", "1", "--nets", "A"]) == 0
    for changed, words in (
        (["--epochs", "2"], "epochs 1, not 2"),
        (["--epochs", "1,2,3"], "epochs: got '1,2,3', allowed is a whole number, or"),
        (["--epochs", "1", "--lr", "0.1"], "lr 0.01, not 0.1"),
        (["--epochs", "1", "--batch-norm"], "batch_norm False, not True"),
    ):
        assert depth_study.main([*argv, "--nets", "A", *changed]) == 2
        assert words in capsys.readouterr().err
    assert depth_study.main([*argv, "--nets", "A,A"]) == 2
    assert depth_study.main([*argv, "--nets", "A,F"]) == 2
