"""A step in pieces is the step of the whole batch; label smoothing, schedules, averaged weights."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import vggfast
from vggfast.engine import checkpoint
from vggfast.engine.ema import Ema
from vggfast.engine.schedule import Cosine
from vggfast.engine.settings import Settings
from vggfast.engine.step import Step
from vggfast.engine.world import World
from vggfast.errors import InputError
from vggfast.train import fit
from vggfast.weights import load_weights

CPU = torch.device("cpu")


def made(**given: Any) -> Settings:
    return Settings.make({"device": "cpu", "lr": 0.1, "dropout": 0.0, **given})


def after_two_steps(settings: Settings, images: int) -> tuple[dict[str, torch.Tensor], list[Any]]:
    """The weights after two steps on random images, and what the steps returned."""
    torch.manual_seed(0)
    model = vggfast.vgg("B", num_classes=10, crop=32, dropout=settings.dropout).train()
    step = Step(model, settings, World(), CPU)
    generator = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(2):
        x = torch.randn(images, 3, 32, 32, generator=generator)
        y = torch.randint(10, (images,), generator=generator)
        seen.append(step(x, y, images).tolist())
    return model.state_dict(), seen


@pytest.mark.parametrize(
    ("given", "images"),
    [({"accumulate": 4}, 256), ({"micro_batch": 64}, 256), ({"micro_batch": 9}, 20),
     ({"accumulate": 3}, 20), ({"accumulate": 50}, 20)],
)  # fmt: skip
def test_pieces_equal_the_batch(narrow: None, given: dict[str, int], images: int) -> None:
    """4 x 64 equals 256, and pieces of unequal size count by their images."""
    whole, seen = after_two_steps(made(), images)
    pieces, again = after_two_steps(made(**given), images)
    torch.manual_seed(0)
    start = vggfast.vgg("B", num_classes=10, crop=32).state_dict()
    for name, t in whole.items():
        moved = (t - start[name]).abs().max().item()
        assert moved > 0
        assert (t - pieces[name]).abs().max().item() <= 1e-4 * moved, name
    for a, b in zip(seen, again, strict=True):
        assert a[0] == pytest.approx(b[0], rel=1e-5)
        assert a[1] == b[1]


def test_a_step_is_torchs(narrow: None) -> None:
    """Loss and weights are those of torch's own loop, mean loss, smoothing and all."""
    settings = made(label_smoothing=0.2, momentum=0.8)
    ours, seen = after_two_steps(settings, 12)
    torch.manual_seed(0)
    model = vggfast.vgg("B", num_classes=10, crop=32, dropout=0.0).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.8, weight_decay=5e-4)
    generator = torch.Generator().manual_seed(1)
    for found in seen:
        x = torch.randn(12, 3, 32, 32, generator=generator)
        y = torch.randint(10, (12,), generator=generator)
        log = model(x).log_softmax(1)
        target = F.one_hot(y, 10) * 0.8 + 0.02
        loss = -(target * log).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert found[0] / 12 == pytest.approx(loss.item(), rel=1e-5)
    for name, t in model.state_dict().items():
        torch.testing.assert_close(ours[name], t, rtol=1e-4, atol=1e-6)


def test_a_cosine_rises_and_falls() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    cosine = Cosine(optimizer, 0.8, 100, 0.1)
    rates = [cosine.rate(i) for i in range(100)]
    assert rates[:10] == pytest.approx([0.08 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.8)
    assert rates[55] == pytest.approx(0.4)
    assert rates[99] == pytest.approx(0.8 * (1 + math.cos(math.pi * 89 / 90)) / 2)
    assert all(a > b for a, b in pairwise(rates[10:]))
    cosine.before_step(55)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4)
    assert Cosine(optimizer, 0.8, 1, 0.0).rate(0) == 0.8


def test_a_run_follows_the_cosine_by_steps(idx_folder: Path, narrow: None) -> None:
    result = fit(data=f"mnist:{idx_folder}", batch=8, epochs=2, schedule="cosine", lr=0.1,
                 progress=False)  # fmt: skip
    # Three steps an epoch; a row has the rate of its last step.
    expected = [0.05 * (1 + math.cos(math.pi * i / 6)) for i in (2, 5)]
    assert [row.lr for row in result.history] == pytest.approx(expected)


def test_ema_is_the_average(narrow: None) -> None:
    model = vggfast.vgg("A", num_classes=10, crop=32, batch_norm=True).train()
    ema = Ema(model, 0.5)
    expected = {k: t.double() for k, t in model.named_parameters()}
    for n in range(1, 9):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
            model.features[1].running_mean.fill_(n)  # type: ignore[union-attr]
        ema.update()
        keep = min(0.5, (1 + n) / (10 + n))
        expected = {
            k: keep * expected[k] + (1 - keep) * t.double() for k, t in model.named_parameters()
        }
    for name, p in ema.model.named_parameters():
        torch.testing.assert_close(p.double(), expected[name], rtol=1e-5, atol=1e-6)
        assert not p.requires_grad
    assert ema.model.features[1].running_mean.eq(8).all()  # type: ignore[index, union-attr]
    assert not ema.model.training
    x = torch.randn(2, 3, 32, 32)
    before = ema.model(x)
    ema.update()  # the network computes with the new weights, not with packed old ones
    assert not torch.equal(ema.model(x), before)
    other = Ema(model, 0.5)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.model(x), ema.model(x))


def test_averaged_weights_are_what_is_kept(idx_folder: Path, narrow: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = fit(data=f"mnist:{idx_folder}", batch=4, epochs=2, ema=0.9, out=out, progress=False)
    state = checkpoint.load(out / "last.pt")
    kept = load_weights(out / "last.safetensors").model.state_dict()
    for name, t in kept.items():
        assert torch.equal(t, state["ema"]["model"][name])
        assert not torch.equal(t, state["model"][name])
        assert torch.equal(t, result.model.state_dict()[name])


def test_recipes_and_what_wins_over_them(tmp_path: Path) -> None:
    plain = Settings.make({})
    assert (plain.batch, plain.epochs, plain.schedule, plain.ema) == (32, 12, "plateau", 0)
    paper = Settings.make({"recipe": "paper"})
    assert (paper.batch, paper.epochs, paper.lr, paper.dropout) == (256, 74, 0.01, 0.5)
    assert (paper.momentum, paper.weight_decay, paper.rgb_shift) == (0.9, 5e-4, "none")
    photographs = Settings.make({"recipe": "paper", "data": str(tmp_path)})
    assert (photographs.size, photographs.scales, photographs.rgb_shift) == (
        224,
        (256, 256),
        "train",
    )
    own = Settings.make({"recipe": "paper", "batch": 64, "init": "normal"})
    assert (own.batch, own.init, own.epochs) == (64, "normal", 74)
    modern = Settings.make({"recipe": "modern", "ema": 0.0})
    assert (modern.schedule, modern.label_smoothing, modern.ema) == ("cosine", 0.1, 0)
    assert modern.compute_dtype(CPU) == torch.float32  # auto: bf16 on GPUs
    resumed = Settings.make({"recipe": "paper"}, own.saved())
    assert resumed.batch == 64


@pytest.mark.parametrize(
    ("given", "words"),
    [({"recipe": "best"}, "recipe: got 'best', allowed are paper, modern"),
     ({"schedule": "step"}, "schedule: got"),
     ({"warmup": 0.1}, "allowed is with cosine"),
     ({"accumulate": 0}, "accumulate: got"),
     ({"accumulate": 2, "micro_batch": 8}, "micro_batch: got 8 and accumulate 2"),
     ({"init_from": "a", "fine_tune_from": "b"}, "init_from: got a and fine_tune_from b"),
     ({"ema": 1.0}, "ema: got"),
     ({"label_smoothing": -0.1}, "label_smoothing: got"),
     ({"rgb_shift": "some"}, "rgb_shift: got"),
     ({"on_bad_image": "cry"}, "on_bad_image: got"),
     ({"checkpoint_every": "often"}, "checkpoint_every: got")],
)  # fmt: skip
def test_settings_that_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        Settings.make(given)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_cosine_run_keeps_its_length() -> None:
    saved = Settings.make({"schedule": "cosine", "epochs": 4}).saved()
    with pytest.raises(InputError, match="epochs: got 5, but the checkpoint's run has 4"):
        Settings.make({"epochs": 5}, saved)
    assert Settings.make({}, saved).epochs == 4
