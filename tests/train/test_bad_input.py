"""Every bad input: the command prints one line naming the argument and exits with 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import vggfast
from vggfast.engine.settings import Settings
from vggfast.errors import InputError
from vggfast.train import fit
from vggfast.train.cli import main

from .helpers import idx_bytes

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--net", ["F", "a", ""]),
        ("--epochs", ["0", "-3", "1.5", "many"]),
        ("--batch", ["0", "-1", "x"]),
        ("--recipe", ["best", ""]),
        ("--accumulate", ["0", "x"]),
        ("--micro-batch", ["0", "-8"]),
        ("--schedule", ["step"]),
        ("--warmup", ["1", "-0.1", "nan", "0.1"]),
        ("--label-smoothing", ["1", "nan"]),
        ("--ema", ["1", "-0.5", "nan"]),
        ("--rgb-shift", ["some", "train"]),
        ("--on-bad-image", ["cry"]),
        ("--checkpoint-every", ["0", "m", "2h", "-5"]),
        ("--lr", ["nan", "inf", "-inf", "0", "-0.1", "fast"]),
        ("--momentum", ["-0.1", "1", "nan"]),
        ("--weight-decay", ["-1e-9", "nan", "inf"]),
        ("--dropout", ["-0.5", "1", "1.5", "nan"]),
        ("--patience", ["-1"]),
        ("--size", ["0", "31", "48", "-32"]),
        ("--scale", ["31", "64:40", "a:b", "40:50:60", ":"]),
        ("--init", ["zero"]),
        ("--seed", ["-1", str(2**32)]),
        ("--limit", ["0", "-5"]),
        ("--dtype", ["int8", "float99"]),
        ("--backend", ["fastest"]),
        ("--device", ["gpu", "cuda:99", "tpu", "meta"]),
        ("--threads", ["0", "-2"]),
        ("--workers", ["-1"]),
    ],
)
def test_a_value_out_of_range(refused: Refused, option: str, values: list[str]) -> None:
    for value in values:
        line = refused(f"{option}={value}")
        assert option.strip("-").replace("-", "_") in line.replace("-", "_")
        assert "allowed" in line or "invalid" in line


def test_graphs_that_cannot_be(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused("--graph", "--device", "cpu") == (
        "error: graph: got True on the CPU, allowed is with a CUDA device\n"
    )
    monkeypatch.setattr(Settings, "torch_device", property(lambda self: torch.device("cuda")))
    assert "graph: got True with dtype fp16" in refused("--graph", "--dtype", "fp16")


def test_unknown_and_incomplete_options(refused: Refused) -> None:
    assert "--speed" in refused("--speed", "9")
    assert "--lr" in refused("--lr")


def test_data_that_is_not_there(refused: Refused, tmp_path: Path) -> None:
    assert "data: no folder" in refused("--data", str(tmp_path / "none"))
    assert "data: no folder" in refused("--data", f"mnist:{tmp_path / 'none'}")
    assert "train-images-idx3-ubyte" in refused("--data", f"fashion-mnist:{tmp_path}")
    assert "fashion-mnist:DIR" in refused("--data", "fashion-mnist")
    assert "digits" in refused("--data", "")
    assert "digits:5" in refused("--data", "digits:5")


def test_a_truncated_idx_file(refused: Refused, idx_folder: Path) -> None:
    path = idx_folder / "train-labels-idx1-ubyte"
    path.write_bytes(idx_bytes(np.zeros(20))[:-3])
    assert "train-labels-idx1-ubyte" in refused("--data", f"mnist:{idx_folder}")


def test_folders_that_make_no_data_set(refused: Refused, photos: Path) -> None:
    def refuse(*words: str) -> None:
        line = refused("--data", str(photos), "--size", "32")
        assert all(word in line for word in words), line

    (photos / "train" / "empty").mkdir()
    (photos / "val" / "empty").mkdir()
    refuse("empty", "class")
    (photos / "train" / "empty").rmdir()
    refuse("'empty'", "same classes")
    (photos / "val" / "empty").rmdir()
    (photos / "val").rename(photos / "test")
    refuse("no folder", "val")
    (photos / "val").mkdir()
    refuse("no class", "val")


def test_a_corrupt_training_image(refused: Refused, photos: Path) -> None:
    bad = photos / "train" / "china" / "1.png"
    for content in (bad.read_bytes()[:300], b"", b"not an image"):
        bad.write_bytes(content)
        assert "china/1.png" in refused("--data", str(photos), "--size", "32")


def test_out_that_cannot_be_written(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        assert "out: cannot write" in refused("--out", str(out))
    assert (tmp_path / "file").read_text() == "a file"


def test_out_that_holds_another_run(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"someone's run")
    assert "already holds a run" in refused("--out", str(tmp_path))
    assert (tmp_path / "last.pt").read_bytes() == b"someone's run"


def test_nothing_to_resume(refused: Refused, tmp_path: Path) -> None:
    assert "no file" in refused("--resume")
    assert "nowhere.pt" in refused("--resume", str(tmp_path / "nowhere.pt"))
    with pytest.raises(InputError, match="resume: got neither"):
        fit(resume=True)
    assert main(["--resume"]) == 2


def test_python_callers_get_the_same_errors() -> None:
    wrong = {"lr": "fast", "epochs": True, "batch": 2.0, "dropout": [], "scale": 256, "flip": "no",
             "batch_norm": "no", "exact": 1}  # fmt: skip
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"^{name}: "):
            fit(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^tensorboard: "):
        fit(tensorboard=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'vggfast[train]'" in refused("--data", "digits")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert "pip install 'vggfast[train]'" in refused("--tensorboard")


def test_importing_train_loads_no_extra() -> None:
    code = (
        "import sys, vggfast, vggfast.train;"
        "print([m for m in ('sklearn', 'PIL', 'rich', 'tensorboard') if m in sys.modules])"
    )
    root = str(Path(vggfast.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"


def test_the_module_runs_as_a_command(tmp_path: Path) -> None:
    root = str(Path(vggfast.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "vggfast.train", "--net", "Z", "--out", str(tmp_path / "o")],
        capture_output=True, text=True, check=False, cwd=root,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: net: got 'Z', allowed are A, A-LRN, B, C, D, E\n"
