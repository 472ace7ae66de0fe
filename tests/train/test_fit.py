"""Training end to end on tiny sets and narrow nets: it resumes exactly, and stops cleanly."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vggfast
from vggfast.engine import checkpoint
from vggfast.engine.step import Step
from vggfast.errors import InputError
from vggfast.train import Result, TrainingError, evaluate, fit
from vggfast.train.cli import main
from vggfast.weights import load_weights

from .helpers import narrow_nets, write_idx

EPOCHS = 2


@dataclass
class Runs:
    """The same training, once without a break and once in two pieces."""

    data: str
    straight: Result
    resumed: Result
    states: tuple[dict[str, Any], dict[str, Any]]

    @property
    def folder(self) -> Path:
        assert self.straight.out is not None
        return self.straight.out


@pytest.fixture(scope="module", autouse=True)
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        narrow_nets(patch)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    root = tmp_path_factory.mktemp("runs")
    data = f"fashion-mnist:{write_idx(root / 'idx')}"
    one, two = root / "one", root / "two"
    common: dict[str, Any] = {"batch": 8, "seed": 5, "patience": 0, "progress": False}
    straight = fit(data=data, epochs=EPOCHS, out=one, **common)
    fit(data=data, epochs=1, out=two, **common)
    torch.manual_seed(99)  # a new process would have other states too
    resumed = fit(resume=True, out=two, epochs=EPOCHS, progress=False)
    states = (checkpoint.load(one / "last.pt"), checkpoint.load(two / "last.pt"))
    return Runs(data, straight, resumed, states)


def same(a: object, b: object) -> bool:
    """Equality of nested state, tensors bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))  # type: ignore[arg-type]
    return a == b


def test_a_resumed_run_is_bit_for_bit_the_uninterrupted_one(runs: Runs) -> None:
    one, two = runs.straight, runs.resumed
    assert [row.numbers() for row in one.history] == [row.numbers() for row in two.history]
    assert [row.epoch for row in one.history] == [1, 2]
    for part in ("model", "optimizer", "schedule", "rng", "settings", "data", "best", "epoch"):
        assert same(runs.states[0][part], runs.states[1][part]), part
    assert (one.best_accuracy, one.best_epoch) == (two.best_accuracy, two.best_epoch)


def test_same_sees_a_difference(runs: Runs) -> None:
    state = runs.states[0]["model"]
    name = "features.0.weight"
    assert not same(state, {**state, name: state[name] + 1e-6})


def test_training_changes_every_parameter(runs: Runs) -> None:
    torch.manual_seed(5)
    fresh = vggfast.vgg("A", num_classes=10, crop=32).state_dict()
    trained = runs.states[0]["model"]
    assert list(fresh) == list(trained)
    assert not [name for name in fresh if not trained[name].isfinite().all()]
    assert not [name for name in fresh if torch.equal(fresh[name], trained[name])]


def test_checkpoints_load_into_a_model(runs: Runs) -> None:
    model = vggfast.vgg("A", num_classes=10, crop=32)
    model.load_state_dict(runs.states[0]["model"], strict=True)
    assert same(model.state_dict(), runs.straight.model.state_dict())
    names = list(runs.states[0]["model"])
    assert (names[0], names[-1]) == ("features.0.weight", "classifier.6.bias")


def test_weights_files_hold_the_best_and_the_last_epoch(runs: Runs) -> None:
    best, last = (load_weights(runs.folder / f"{n}.safetensors") for n in ("best", "last"))
    assert (best.extra["epoch"], last.extra["epoch"]) == (str(runs.straight.best_epoch), "2")
    assert same(last.model.state_dict(), dict(runs.straight.model.state_dict()))
    assert (last.net, last.crop, last.scale) == ("A", 32, (32, 32))
    assert (last.classes, last.mean, last.std) == (
        runs.straight.classes, runs.straight.mean, runs.straight.std,
    )  # fmt: skip


def test_the_csv_has_every_epoch_once(runs: Runs) -> None:
    assert runs.resumed.out is not None
    with (runs.resumed.out / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row, kept in zip(rows, runs.resumed.history, strict=True):
        assert float(row["train_loss"]) == kept.train_loss
        assert float(row["val_accuracy"]) == kept.val_accuracy
        assert float(row["images_per_s"]) > 0
    names = sorted(p.name for p in runs.resumed.out.iterdir())
    assert names == [
        "best.safetensors", "history.csv", "last.pt", "last.safetensors", "previous.pt",
        "settings.json",
    ]  # fmt: skip


def test_a_finished_run_has_nothing_left_to_do(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (runs.folder / "last.pt", runs.folder):
        assert main(["--resume", str(path)]) == 0
        assert "nothing to do" in capsys.readouterr().out


def test_what_does_not_fit_the_checkpoint_is_refused(
    runs: Runs, refused: Callable[..., str], photos: Path, tmp_path: Path
) -> None:
    last = str(runs.folder / "last.pt")
    assert "net: got 'B'" in refused("--resume", last, "--net", "B")
    assert "lr: got 0.5" in refused("--resume", last, "--lr", "0.5")
    assert "other classes" in refused("--resume", last, "--data", str(photos))
    other = f"fashion-mnist:{write_idx(tmp_path / 'other', train=30)}"
    assert "20, not 30" in refused("--resume", last, "--data", other)


def test_a_truncated_checkpoint_is_refused(
    runs: Runs, refused: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes((runs.folder / "last.pt").read_bytes()[:500_000])
    assert str(path) in refused("--resume", str(path))
    assert path.stat().st_size == 500_000


def break_step(monkeypatch: pytest.MonkeyPatch, at: int, loss: float | None) -> None:
    """From its ``at``-th call on, let a training step give ``loss``, or be interrupted if None."""
    step, calls = Step.__call__, 0

    def broken(self: Step, x: torch.Tensor, y: torch.Tensor, images: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls < at:
            return step(self, x, y, images)
        if loss is None:
            raise KeyboardInterrupt
        return torch.tensor([loss, 0.0])

    monkeypatch.setattr(Step, "__call__", broken)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], loss: float
) -> None:
    last = runs.folder / "last.pt"
    before = last.stat()
    break_step(monkeypatch, 2, loss)
    assert main(["--resume", str(last), "--epochs", "3", "--quiet"]) == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    lr = f"{runs.states[0]['optimizer']['param_groups'][0]['lr']:g}"
    assert f"loss is {loss} at iteration 8 (epoch 3, step 2) with lr {lr};" in line
    assert f"{last} holds epoch 2" in line
    assert (last.stat().st_ino, last.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_interrupted_run_says_what_it_keeps(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    last = runs.folder / "last.pt"
    before = last.stat()
    break_step(monkeypatch, 3, None)
    assert main(["--resume", str(last), "--epochs", "3"]) == 130
    assert f"interrupted; {last} holds epoch 2" in capsys.readouterr().err
    assert last.stat().st_ino == before.st_ino


def test_a_diverging_run_writes_no_checkpoint(tmp_path: Path) -> None:
    data = f"mnist:{write_idx(tmp_path / 'idx')}"
    with pytest.raises(TrainingError, match=r"\(epoch 1, step \d\) with lr 1e\+20; .*no check"):
        fit(data=data, lr=1e20, batch=8, epochs=2, out=tmp_path / "run", progress=False)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["settings.json"]


def test_the_learning_rate_drops_three_times_when_nothing_improves(idx_folder: Path) -> None:
    # A rate this small leaves the accuracy where it is.
    result = fit(data=f"mnist:{idx_folder}", lr=1e-20, patience=0, epochs=6, limit=2,
                 progress=False)  # fmt: skip
    rates = [row.lr for row in result.history]
    assert rates == pytest.approx([1e-20, 1e-20, 1e-21, 1e-22, 1e-23, 1e-23], rel=1e-9, abs=0)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_autocast_trains(idx_folder: Path, dtype: str) -> None:
    result = fit(data=f"mnist:{idx_folder}", dtype=dtype, limit=4, epochs=1, progress=False)
    assert math.isfinite(result.history[0].train_loss)
    assert {p.dtype for p in result.model.parameters()} == {torch.float32}


def test_photographs_train_with_workers(photos: Path) -> None:
    result = fit(data=photos, recipe="paper", size=32, scale="36:48", batch=4, epochs=1, workers=1,
                 threads=1, progress=False)  # fmt: skip
    assert result.classes == ("china", "flower")
    assert result.out is None
    assert result.history[0].val_top5 == 1
    assert result.model(torch.zeros(1, 3, 32, 32)).shape == (1, 2)


def test_photographs_that_cannot_be_read_are_left_out_and_named(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [photos / "train" / "china" / "0.JPG", photos / "val" / "flower" / "0.JPG"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:600])
    result = fit(data=photos, size=32, batch=4, epochs=1, on_bad_image="skip")
    assert math.isfinite(result.history[0].val_loss)
    printed = capsys.readouterr().out
    for path in bad:
        name = path.relative_to(photos)
        assert printed.count(f"left out {name}: cannot read image {path} (") == 1, printed
    assert "epoch 1: 1 training images were replaced, 1 validation images left out" in printed
    with pytest.raises(InputError, match=r"china/0\.JPG|flower/0\.JPG"):
        fit(data=photos, size=32, batch=4, epochs=1, progress=False)


def test_a_validation_part_of_which_nothing_can_be_read_is_no_diverging_run(photos: Path) -> None:
    for path in (photos / "val").rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(InputError, match="data: none of 4 validation images can be read"):
        fit(data=photos, size=32, batch=4, epochs=1, on_bad_image="skip", progress=False)


def test_the_modern_recipe_runs_and_resumes(idx_folder: Path, tmp_path: Path) -> None:
    argv = ["--data", f"mnist:{idx_folder}", "--recipe", "modern", "--batch-norm", "--epochs", "3",
            "--batch", "8", "--micro-batch", "4", "--quiet"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*argv, "--out", str(one), "--tensorboard"]) == 0
    assert main([*argv, "--out", str(two), "--checkpoint-every", "5"]) == 0
    state = checkpoint.load(two / "previous.pt")
    assert (state["epoch"], state["position"]["step"]) == (2, 0)
    assert main(["--resume", str(two / "previous.pt"), "--quiet"]) == 0
    states = [checkpoint.load(out / "last.pt") for out in (one, two)]
    assert all(same(states[0][part], states[1][part]) for part in ("model", "ema", "optimizer"))
    assert states[0]["settings"]["label_smoothing"] == 0.1
    assert list((one / "tensorboard").iterdir())


def test_threads_are_restored(idx_folder: Path) -> None:
    before = torch.get_num_threads()
    fit(data=f"mnist:{idx_folder}", threads=before + 1, limit=1, epochs=1, progress=False)
    assert torch.get_num_threads() == before


def test_evaluate_agrees_with_the_definition(runs: Runs) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(11, 3, 32, 32, generator=generator)
    y = torch.randint(10, (11,), generator=generator)
    model = runs.straight.model.train()  # dropout must be off nevertheless
    seen = evaluate(model, zip(x.split(4), y.split(4), strict=True))
    assert model.training
    logits = model.eval()(x)
    ranks = (logits > logits.gather(1, y[:, None])).sum(1)
    assert seen.images == 11
    assert seen.loss == pytest.approx(F.cross_entropy(logits, y).item(), rel=1e-5)
    assert seen.accuracy == pytest.approx((ranks == 0).float().mean().item())
    assert seen.top5 == pytest.approx((ranks < 5).float().mean().item())
    assert math.isnan(evaluate(model, []).loss)
