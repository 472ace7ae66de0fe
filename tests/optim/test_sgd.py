"""vggfast.optim.SGD without a GPU's kernels: torch's own function, bit for bit."""

from __future__ import annotations

import pytest
import torch

from vggfast import InputError, optim

CASES = [
    {"momentum": 0.9, "weight_decay": 5e-4},
    {},
    {"momentum": 0.9, "dampening": 0.1, "maximize": True},
    {"momentum": 0.8, "nesterov": True},
]


def _model(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(1)
    layers = torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(64, 5)
    return torch.nn.Sequential(*layers).to(dtype)


def _train(model, optimizer, steps: int, first: int = 0) -> None:
    dtype = next(model.parameters()).dtype
    for step in range(first, first + steps):
        torch.manual_seed(100 + step)
        optimizer.zero_grad()
        model(torch.randn(2, 3, 6, 6, dtype=dtype)).square().mean().backward()
        optimizer.step()


def _equal(a, b) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equal_to_torchs(case, dtype):
    ours, theirs = _model(dtype), _model(dtype)
    a = optim.SGD(ours.parameters(), 0.05, **case)
    b = torch.optim.SGD(theirs.parameters(), 0.05, **case)
    assert a.how() == f"cpu, {str(dtype)[6:]}: torch's kernels"
    _train(ours, a, 4)
    _train(theirs, b, 4)
    assert _equal(ours, theirs)
    for x, y in zip(a.state.values(), b.state.values(), strict=True):
        assert torch.equal(x["momentum_buffer"], y["momentum_buffer"])


@pytest.mark.parametrize("ours_first", [True, False])
def test_state_passes_to_torchs_and_back(ours_first):
    case = {"momentum": 0.9, "weight_decay": 1e-3}
    kinds = (optim.SGD, torch.optim.SGD) if ours_first else (torch.optim.SGD, optim.SGD)
    model, other, plain = _model(), _model(), _model()
    before = kinds[0](model.parameters(), 0.05, **case)
    _train(model, before, 2)
    other.load_state_dict(model.state_dict())
    after = kinds[1](other.parameters(), 1.0)
    after.load_state_dict(before.state_dict())
    _train(other, after, 2, first=2)
    _train(plain, torch.optim.SGD(plain.parameters(), 0.05, **case), 4)
    assert _equal(other, plain)


def test_16_bit_parameters_keep_float32_weights(tmp_path):
    """Steps of a ten-thousandth, which bfloat16 alone would lose; a checkpoint keeps them."""
    p = torch.ones(3, dtype=torch.bfloat16).requires_grad_()
    optimizer = optim.SGD([p], 1e-4, momentum=0.0)
    for _ in range(15):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert (p == 1).all()
    torch.save(optimizer.state_dict(), tmp_path / "state")
    restored = optim.SGD([p], 1.0)
    restored.load_state_dict(torch.load(tmp_path / "state"))
    assert restored.state[p]["master_param"].dtype == torch.float32
    for _ in range(15):
        p.grad = torch.ones_like(p)
        restored.step()
    torch.testing.assert_close(restored.state[p]["master_param"], torch.full((3,), 1 - 3e-3))
    assert (p == torch.tensor(1 - 3e-3).bfloat16()).all()
    assert (p < 1).all()


def test_closure_and_schedulers():
    model = _model()
    optimizer = optim.SGD(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(1, 3, 6, 6)).sum()
        loss.backward()
        return loss

    before = model[0].weight.detach().clone()
    first, second = optimizer.step(closure), optimizer.step(closure)
    assert second < first
    assert not torch.equal(before, model[0].weight)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"lr": -1.0}, "lr"), ({"momentum": -0.1}, "momentum"), ({"weight_decay": -1.0}, "weight"),
     ({"nesterov": True}, "nesterov"), ({"lr": float("nan")}, "lr")],
)  # fmt: skip
def test_bad_constants(arguments, name):
    with pytest.raises(InputError, match=f"^{name}"):
        optim.SGD(_model().parameters(), **arguments)


def test_sparse_gradients_are_refused():
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="sparse"):
        optim.SGD(table.parameters(), 0.1).step()
