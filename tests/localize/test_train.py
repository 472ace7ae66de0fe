"""``python -m vggfast.localize train``: what a run does, leaves, and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.evaluation.helpers import MEAN, STD
from vggfast.errors import InputError
from vggfast.localization.settings import BoxSettings
from vggfast.localize import evaluate, fit
from vggfast.localize.cli import main
from vggfast.models.boxes import BoxRegressor
from vggfast.train import fit as train
from vggfast.weights import load_weights
from vggfast.weights.format import read

from .helpers import DIGITS


@pytest.fixture(scope="module")
def options(canvases: Path, classifier: Path) -> dict[str, object]:
    return {
        "data": f"imagenet:{canvases}", "init_from": classifier, "batch": 8, "lr": 0.01,
        "device": "cpu", "threads": 1, "progress": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(options: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of per-class boxes, all layers."""
    out = tmp_path_factory.mktemp("run") / "run"
    fit(**options, epochs=2, out=out)  # type: ignore[arg-type]
    return out


def test_what_a_run_leaves(run: Path, canvases: Path, classifier: Path) -> None:
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    names = ("train_localised", "val_localised", "val_mean_iou")
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in names)
    weights = load_weights(run / "last.safetensors", boxes=True)
    assert isinstance(weights.model, BoxRegressor)
    assert (weights.model.boxes, weights.model.num_classes) == ("pcr", 40)
    assert (weights.classes, weights.crop, weights.scale) == (DIGITS, 64, (64, 64))
    assert (weights.mean, weights.std) == (MEAN, STD)
    metadata, _ = read(run / "last.safetensors")
    assert metadata["boxes"] == "pcr"
    settings = json.loads((run / "settings.json").read_text())
    assert (settings["net"], settings["size"], settings["init_from"]) == ("A", 64, str(classifier))


def test_history_is_what_evaluation_measures(run: Path, canvases: Path) -> None:
    """One box an image, so the figures of the validation are those of the centre protocol."""
    with (run / "history.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    found = evaluate(
        weights=run / "last.safetensors", data=f"imagenet:{canvases}", progress=False
    )  # fmt: skip
    assert found is not None
    assert 1 - found.row.error.value == pytest.approx(float(last["val_localised"]))
    # Evaluation cuts boxes off at the image's border, which may bring them nearer to the truth.
    assert found.row.mean_iou is not None
    assert found.row.mean_iou >= float(last["val_mean_iou"]) - 1e-4


@pytest.mark.parametrize("tune", ["fc", "all"])
def test_resumed_runs_are_the_same(
    options: dict[str, object], classifier: Path, tmp_path: Path, tune: str
) -> None:
    """Also without the classification network's file."""
    moved = tmp_path / "classifier.safetensors"
    moved.write_bytes(classifier.read_bytes())
    whole, half = tmp_path / "whole", tmp_path / "half"
    given = {**options, "init_from": moved, "tune": tune, "limit": 30}
    fit(**given, epochs=2, out=whole)  # type: ignore[arg-type]
    fit(**given, epochs=1, out=half)  # type: ignore[arg-type]
    moved.unlink()
    fit(epochs=2, out=half, resume=True, progress=False)
    one, two = (read(folder / "last.safetensors")[1] for folder in (whole, half))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("tune", ["fc", "all"])
@pytest.mark.parametrize("boxes", ["scr", "pcr"])
def test_which_layers_learn(
    options: dict[str, object], classifier: Path, tmp_path: Path, tune: str, boxes: str
) -> None:
    fit(**options, epochs=1, limit=20, tune=tune, boxes=boxes, out=tmp_path / "o")  # type: ignore[arg-type]
    before, after = read(classifier)[1], read(tmp_path / "o" / "last.safetensors")[1]
    assert after["classifier.6.weight"].shape == (40 if boxes == "pcr" else 4, 32)
    for name in before:
        if name.startswith("features"):
            assert torch.equal(before[name], after[name]) == (tune == "fc"), name
        elif not name.startswith("classifier.6"):
            assert not torch.equal(before[name], after[name]), name


def test_it_starts_from_the_classification_network(
    options: dict[str, object], classifier: Path, tmp_path: Path
) -> None:
    """With a rate of nearly nothing all layers but the last are its."""
    tiny = {**options, "lr": 1e-30, "weight_decay": 0.0}
    fit(**tiny, epochs=1, limit=20, out=tmp_path / "o")  # type: ignore[arg-type]
    before, after = read(classifier)[1], read(tmp_path / "o" / "last.safetensors")[1]
    for name in before:
        if not name.startswith("classifier.6"):
            assert torch.equal(before[name], after[name])
    last = after["classifier.6.weight"]
    assert 0.008 < float(last.std()) < 0.012
    assert float(after["classifier.6.bias"].abs().max()) < 1e-20


def test_it_learns(options: dict[str, object]) -> None:
    """Twenty images by heart: the loss falls, boxes come to lie on the objects."""
    by_heart = {**options, "lr": 0.05}
    result = fit(
        **by_heart, epochs=40, limit=20, flip=False, dropout=0.0, schedule="cosine",
        warmup=0.1, weight_decay=0.0, boxes="scr",
    )  # type: ignore[arg-type]  # fmt: skip
    first, last = result.history[0], result.history[-1]
    assert last.train_loss < first.train_loss / 20
    assert last.train_accuracy >= 0.75 > first.train_accuracy


def test_weight_files_are_told_apart(run: Path, classifier: Path) -> None:
    with pytest.raises(InputError, match="holds a network that localises"):
        load_weights(run / "last.safetensors")
    with pytest.raises(InputError, match="holds a network that classifies"):
        load_weights(classifier, boxes=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", "[1]"), ("classes", '["0"]'), ("scale", "5"), ("boxes", '"scr"'), ("crop", "70")],
)
def test_files_whose_metadata_is_wrong(
    options: dict[str, object], classifier: Path, tmp_path: Path, name: str, value: str
) -> None:
    metadata, tensors = read(classifier)
    bad = tmp_path / "bad.safetensors"
    save_file(tensors, bad, {**metadata, name: value})
    with pytest.raises(InputError, match=r"bad\.safetensors ") as caught:
        fit(**{**options, "init_from": bad}, epochs=1, limit=10, out=tmp_path / "o")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_the_command(options: dict[str, object], tmp_path: Path,
                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    argv = [
        "train", "--data", str(options["data"]), "--init-from", str(options["init_from"]),
        "--epochs", "1", "--batch", "8", "--limit", "20", "--boxes", "scr", "--tune", "fc",
        "--out", str(tmp_path / "o"), "--device", "cpu",
    ]  # fmt: skip
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "all layers but the last" in printed
    assert "val localised" in printed
    assert "IoU above 0.5 in" in printed


def test_bad_settings(
    options: dict[str, object], classifier: Path, run: Path, canvases: Path, tmp_path: Path,
    refused: Callable[..., str],
) -> None:  # fmt: skip
    data = str(options["data"])
    base = ["train", "--data", data, "--init-from", str(classifier), "--out", str(tmp_path / "o")]
    for change, words in (
        (["--boxes", "ssr"], "boxes: got 'ssr', allowed are scr, pcr"),
        (["--tune", "last"], "tune: got 'last', allowed are fc, all"),
        (["--lr", "0"], "lr: got 0.0"),
        (["--scale", "32"], "scale: got '32'"),
        (["--init-from", str(tmp_path / "gone")], "no file"),
        (["--init-from", str(run / "last.safetensors")], "holds a network that localises"),
        (["--data", str(canvases)], "allowed are imagenet:DIR, voc:DIR"),
        (["--nets", "A"], "unrecognized arguments"),
        (["--resume", str(tmp_path / "gone.pt")], "no file"),
        (["--out", str(run)], "already holds a run"),
    ):  # fmt: skip
        assert words in refused(*base, *change)
    assert "init_from: got none" in refused("train", "--data", data, "--out", str(tmp_path / "o"))
    assert "data: got none" in refused("train")
    assert not (tmp_path / "o").exists()


def test_checkpoints_of_other_training(
    options: dict[str, object], run: Path, tmp_path: Path
) -> None:
    train(net="A", data="digits", epochs=1, limit=20, out=tmp_path / "c", progress=False)
    with pytest.raises(InputError, match=r"checkpoint is of vggfast\.train"):
        fit(resume=tmp_path / "c", progress=False)
    with pytest.raises(InputError, match="unknown setting 'boxes'"):
        train(resume=run, progress=False)
    with pytest.raises(InputError, match="boxes: got 'scr', but the checkpoint's run has 'pcr'"):
        fit(resume=run, boxes="scr", progress=False)


def test_settings_of_the_network(classifier: Path) -> None:
    made = BoxSettings.make({"data": "voc:DIR", "init_from": str(classifier)})
    assert (made.lr, made.boxes, made.tune) == (1e-3, "pcr", "all")
    assert (made.net, made.size, made.scales) == ("A", 64, (64, 64))
    assert (made.classes, made.mean, made.std) == (DIGITS, MEAN, STD)
    assert BoxSettings.make({}, made.saved()).classes == DIGITS
