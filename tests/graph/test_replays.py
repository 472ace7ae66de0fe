"""Captured models and steps on a CPU, with a stand-in for the graph (fakes.py)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import fakes
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggfast import InputError, backends
from vggfast.graph import record
from vggfast.graph.inference import CapturedModel
from vggfast.graph.state import Saved, start_momentum
from vggfast.graph.step import CapturedStep


@pytest.fixture(autouse=True)
def replaying(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "record", fakes.record)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(64, 5),
    )  # fmt: skip


def batch(seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(2, 3, 4, 4, generator=g), torch.randint(5, (2,), generator=g)


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.125, momentum=0.5, weight_decay=0.25, fused=True)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return all(torch.equal(mine[k], theirs[k]) for k in theirs)


def test_inference_copies_in_and_clones_out() -> None:
    model = net().eval()
    captured = CapturedModel(model, batch(0)[0], True)
    for seed in (1, 2):
        x = batch(seed)[0]
        assert torch.equal(captured(x), model(x))
    first, second = captured(batch(1)[0]), captured(batch(2)[0])
    assert first.data_ptr() != second.data_ptr()
    assert not first.requires_grad
    bare = CapturedModel(model, batch(0)[0], False)
    assert bare(batch(1)[0]).data_ptr() == bare(batch(2)[0]).data_ptr()
    assert "CapturedModel(Sequential, x 2x3x4x4 torch.float32" in repr(bare)


def test_inference_calls_that_are_refused() -> None:
    model = net().eval()
    captured = CapturedModel(model, batch(0)[0], True)
    with pytest.raises(InputError, match=r"x: got shape \(1, 3, 4, 4\), allowed is \(2, 3, 4, 4\)"):
        captured(batch(0)[0][:1])
    model.train()
    with pytest.raises(InputError, match="got training mode"):
        captured(batch(0)[0])
    model.eval()
    conv = model[0]
    before = conv.weight.data
    conv.weight.data = before.clone()
    with pytest.raises(InputError, match=r"got 0\.weight moved, resized"):
        captured(batch(0)[0])
    conv.weight.data = before
    captured(batch(0)[0])
    conv.weight = nn.Parameter(before.clone())
    with pytest.raises(InputError, match=r"got another tensor as 0\.weight"):
        captured(batch(0)[0])


def test_an_output_that_is_no_tensor() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(InputError, match="got an output of tuple"):
        CapturedModel(Two().eval(), batch(0)[0], True)


def test_inference_mode_around_the_capture() -> None:
    model = net().eval()
    with torch.inference_mode():
        captured = CapturedModel(model, batch(0)[0], True)
        assert not captured._x.is_inference()
    assert torch.equal(captured(batch(1)[0]), model(batch(1)[0]))


def test_saved_state_comes_back() -> None:
    model, (x, y) = net(), batch(0)
    optimizer = sgd(model)
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    grads = [p.grad for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    buffers = [optimizer.state[p]["momentum_buffer"] for p in model.parameters()]
    kept, momenta = copy.deepcopy(model), [b.clone() for b in buffers]
    random = torch.get_rng_state()
    expected = torch.rand(3)
    torch.set_rng_state(random)
    saved = Saved(model, optimizer, torch.device("cpu"))
    for p in model.parameters():
        p.grad = None
    for _ in range(2):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert not same(model, kept)
    saved.restore()
    assert same(model, kept)
    assert [p.data_ptr() for p in model.parameters()] == addresses
    for p, grad, buffer, momentum in zip(model.parameters(), grads, buffers, momenta, strict=True):
        assert p.grad is grad
        assert optimizer.state[p]["momentum_buffer"] is buffer
        assert torch.equal(buffer, momentum)
    assert torch.equal(torch.rand(3), expected)


def test_momentum_that_starts_at_zero_changes_no_step() -> None:
    first = net()
    second = copy.deepcopy(first)
    for model, prepared in ((first, False), (second, True)):
        optimizer = sgd(model)
        if prepared:
            start_momentum(optimizer)
        for seed in range(2):
            torch.manual_seed(seed)
            x, y = batch(seed)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert same(first, second)


@pytest.fixture
def pair() -> tuple[CapturedStep, nn.Module, torch.optim.SGD, Callable[[int], Tensor]]:
    """A captured step, its model and optimizer, and the same steps taken eagerly elsewhere."""
    model = net().train()
    twin = copy.deepcopy(model)
    optimizer, other = sgd(model), sgd(twin)
    step = CapturedStep(model, F.cross_entropy, optimizer, *batch(0))

    def eager(seed: int) -> Tensor:
        for mine, theirs in zip(optimizer.param_groups, other.param_groups, strict=True):
            theirs["lr"] = mine["lr"]
        x, y = batch(seed)
        other.zero_grad()
        found = F.cross_entropy(twin(x), y)
        found.backward()
        other.step()
        return found.detach()

    eager.twin = twin  # type: ignore[attr-defined]
    return step, model, optimizer, eager


def test_the_warm_up_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """All steps are undone when recording begins; and the capture changes nothing more."""
    model = net().train()
    kept, random = copy.deepcopy(model), torch.get_rng_state()
    seen: list[bool] = []

    def look(run: Callable[[], object], device: torch.device) -> object:
        momenta = [s["momentum_buffer"].abs().max().item() for s in optimizer.state.values()]
        seen.append(same(model, kept) and torch.equal(torch.get_rng_state(), random))
        seen.append(momenta == [0.0] * len(list(model.parameters())))
        seen.append(all(p.grad is None for p in model.parameters()))
        return fakes.record(run, device)

    monkeypatch.setattr(record, "record", look)
    optimizer = sgd(model)
    CapturedStep(model, F.cross_entropy, optimizer, *batch(0))
    assert seen == [True] * 3
    assert same(model, kept)
    assert torch.equal(torch.get_rng_state(), random)


def test_steps_equal_eager_ones(pair: tuple) -> None:  # type: ignore[type-arg]
    step, model, optimizer, eager = pair
    for seed in range(4):
        if seed == 2:
            optimizer.param_groups[0]["lr"] = 0.03125
        torch.manual_seed(seed)
        expected = eager(seed)
        torch.manual_seed(seed)
        assert torch.equal(step(*batch(seed)), expected)
        assert same(model, eager.twin)
        for p, q in zip(model.parameters(), eager.twin.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)
    assert optimizer.param_groups[0]["lr"] == 0.03125  # a number as before


def test_a_rate_in_a_tensor_is_followed(pair: tuple) -> None:  # type: ignore[type-arg]
    step, model, optimizer, eager = pair
    for seed, rate in enumerate((0.5, 0.25)):
        optimizer.param_groups[0]["lr"] = torch.tensor(rate)
        torch.manual_seed(seed)
        eager(seed)
        torch.manual_seed(seed)
        step(*batch(seed))
        assert same(model, eager.twin)


def test_packed_weights_are_forgotten_after_a_replay(
    pair: tuple,  # type: ignore[type-arg]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[int] = []
    triton = backends.get("triton")
    monkeypatch.setattr(triton, "clear_weights", lambda: told.append(1))
    step, model, *_ = pair
    version = model[0].weight._version
    step(*batch(1))
    assert told == [1]
    assert model[0].weight._version > version
    assert all(p.grad is not None for p in model.parameters())


def test_step_calls_that_are_refused(pair: tuple) -> None:  # type: ignore[type-arg]
    step, model, optimizer, _ = pair
    x, y = batch(0)
    with pytest.raises(InputError, match=r"y: got shape \(1,\), allowed is \(2,\)"):
        step(x, y[:1])
    optimizer.param_groups[0]["momentum"] = 0.75
    with pytest.raises(InputError, match="optimizer: got other groups or another momentum"):
        step(x, y)
    optimizer.param_groups[0]["momentum"] = 0.5
    step(x, y)
    model[0].weight.requires_grad_(False)
    with pytest.raises(InputError, match=r"0\.weight moved, resized or \(un\)frozen"):
        step(x, y)
    model[0].weight.requires_grad_(True)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(InputError, match="got other momentum buffers"):
        step(x, y)


def test_a_loss_that_is_no_scalar() -> None:
    model = net().train()
    kept = copy.deepcopy(model)
    with pytest.raises(InputError, match=r"loss_fn: got \(2, 5\) from it"):
        CapturedStep(model, lambda output, y: output, sgd(model), *batch(0))
    assert same(model, kept)
