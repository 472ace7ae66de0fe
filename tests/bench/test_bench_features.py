"""bench/features.py and bench/transfer.py on a tiny budget."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import features as speed
import pytest
import torch

from tests.train.helpers import narrow_nets, write_idx

pytest.importorskip("sklearn")
pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_nets(monkeypatch)


def test_the_loops_give_the_same_features(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "r.json"
    argv = ["--net", "A", "--crop", "64", "--scale", "70", "--size", "90x75", "--images", "5"]
    argv += ["--batch", "2", "--rounds", "1", "--out", str(out)]
    monkeypatch.setattr("dense.FC_WIDTH", 32)  # it has a name of its own for it
    assert speed.main(argv) == 0
    record = json.loads(out.read_text())
    assert [row["contender"] for row in record["rows"]] == [
        "vggfast", "torch, FC as convolutions", "torch, FC on windows",
    ]  # fmt: skip
    assert all(row["images_per_second"]["median"] > 0 for row in record["rows"])
    assert record["rows"][1]["speedup"]["n"] == 1
    # Features that differ are not timed.
    monkeypatch.setattr(speed, "LARGEST_ERROR", 1e-12)
    out.unlink()
    assert speed.main(argv) == 1
    assert "features differ: torch, FC as convolutions: got " in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--images", "0"], "--images: got 0"), (["--size", "5"], "--size: got '5'"),
     (["--scale", "200"], "--scale: got 200 for crop 224"), (["--speed"], "--help"),
     (["--out", "/nowhere/x.json"], "folder does not exist")],
)  # fmt: skip
def test_bad_arguments(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(argv) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def transfer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """bench/transfer.py, whose name tests/transfer has too."""
    path = Path(speed.__file__).with_name("transfer.py")
    spec = importlib.util.spec_from_file_location("bench_transfer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_transfer_trains_what_is_not_given_and_tells_of_all(
    transfer: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_idx(tmp_path / "idx")
    argv = ["--fashion-mnist", str(tmp_path / "idx"), "--layers", "relu7", "--limit", "40"]
    argv += ["--test-limit", "10", "--epochs", "1", "--train-limit", "16"]
    argv += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "t.json")]
    assert transfer.main(argv) == 0
    record = json.loads((tmp_path / "t.json").read_text())
    assert record["command"].startswith("python bench/transfer.py --fashion-mnist ")
    assert record["versions"]["torch"] == torch.__version__
    kinds = ["raw pixels", "relu7, random weights"]
    assert [(row["target"], row["features"]) for row in record["rows"]] == [
        *(("digits", kind) for kind in kinds),
        ("digits", "relu7, trained on fashion-mnist"),
        ("digits", "relu7, trained on digits"),
        *(("fashion-mnist", kind) for kind in kinds),
        ("fashion-mnist", "relu7, trained on digits"),
        ("fashion-mnist", "relu7, trained on fashion-mnist"),
    ]
    assert [row["dimension"] for row in record["rows"]] == [64, 32, 32, 32, 784, 32, 32, 32]
    assert all(row["errors"]["images"] == 10 for row in record["rows"])
    assert (tmp_path / "t.md").read_text().count("\n| ") == 9
    # Nets and features are there now.
    weights = tmp_path / "runs" / "digits" / "last.safetensors"
    when = weights.stat().st_mtime_ns
    assert transfer.main([*argv, "--digits-weights", str(weights)]) == 0
    assert weights.stat().st_mtime_ns == when
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == record["rows"]
    capsys.readouterr()
    assert transfer.main([*argv[2:]]) == 2
    assert "--fashion-mnist" in capsys.readouterr().err
