"""A short training run on the CPU's kernels follows torch's loss curve within rounding's noise.

The noise is measured: torch trains the same network several times with its channels and each
batch's images in other orders, which is the same function with its sums in other orders.
docs/numerics.md ("A training run") says why the criterion is this one, and what it finds.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggfast
from vggfast import backends
from vggfast.data import Batches, load

STEPS, BATCH = 36, 32
RUNS = 8
QUANTILE = 4.785  # of Student's t with RUNS - 1 degrees of freedom, 99.9 %

Grads = tuple[Tensor | None, ...]


def _reorder(model: vggfast.VGG, generator: torch.Generator) -> None:
    """Each convolution's outputs in another order, and what reads them too."""
    order = torch.arange(3)
    with torch.no_grad():
        for conv in model.features:
            if isinstance(conv, nn.Conv2d):
                new = torch.randperm(conv.out_channels, generator=generator)
                conv.weight.copy_(conv.weight[new][:, order])
                assert conv.bias is not None
                conv.bias.copy_(conv.bias[new])
                order = new
        first = model.classifier[0]
        first.weight.copy_(first.weight[:, order])


def _curve(backend: str, order: int = 0, still: int | None = None) -> Tensor:
    """The loss of each step; data and weights are the same in all runs.

    ``order`` 0 is the network's and the data's own; ``still`` is a layer trained without momentum.
    The loss is taken in float64: rounding it would hide how near two runs are.
    """
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(order)
    data = load("digits", size=32, scale=(37, 37), flip=None, limit=STEPS * BATCH)
    model = vggfast.vgg("A", num_classes=10, crop=32, dropout=0.0, backend=backend).train()
    if order:
        _reorder(model, generator)
    optimizer = torch.optim.SGD(
        [
            {"params": [p], "momentum": 0.0 if name.startswith(f"features.{still}.") else 0.9}
            for name, p in model.named_parameters()
        ],
        lr=0.001,
        weight_decay=5e-4,
        fused=True,
    )
    losses = []
    for x, y in Batches(data.train, BATCH, shuffle=True).epoch():
        if order:
            images = torch.randperm(len(x), generator=generator)
            x, y = x[images], y[images]
        loss = F.cross_entropy(model(x).double(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert len(losses) == STEPS
    return torch.tensor(losses, dtype=torch.float64)


def _distance(curve: Tensor, others: Tensor) -> float:
    """How far a curve is from the mean of ``others`` (runs, steps): the median over the steps.

    The unit is what one more such run would show at that step: their spread, and their mean's.
    """
    unit = (others.var(0) * (1 + 1 / len(others))).sqrt()
    return ((curve - others.mean(0)).abs() / unit).quantile(0.5).item()


def _without(runs: Tensor, i: int) -> Tensor:
    return torch.cat([runs[:i], runs[i + 1 :]])


def _from_eager(curve: Tensor, eager: Tensor) -> float:
    """The distance from all eager runs but one, as an eager run has it: the geometric mean."""
    distances = [_distance(curve, _without(eager, i)) for i in range(len(eager))]
    return torch.tensor(distances).log().mean().exp().item()


def _own(eager: Tensor) -> Tensor:
    """How far each eager run is from the others."""
    return torch.tensor([_distance(eager[i], _without(eager, i)) for i in range(RUNS)])


def _limit(eager: Tensor) -> float:
    """One more eager run is further from them once in 1000 (distances taken as log-normal)."""
    logs = _own(eager).log()
    return (logs.mean() + QUANTILE * logs.std() * (1 + 1 / RUNS) ** 0.5).exp().item()


@pytest.fixture(scope="module")
def eager() -> Tensor:
    """(RUNS, STEPS): torch's runs."""
    pytest.importorskip("sklearn")
    return torch.stack([_curve("eager", order) for order in range(RUNS)])


@pytest.mark.long
@pytest.mark.parametrize("how", ["auto", "f4", "f6", "exact"])
def test_ours_is_within_the_noise(eager, how, monkeypatch):
    if how != "exact":
        monkeypatch.setenv("VGGFAST_CPU_CONV", how)
    with vggfast.exact() if how == "exact" else nullcontext():
        distance = _from_eager(_curve("cpu"), eager)
    assert distance <= _limit(eager)


def _no_db(dx: Tensor, dw: Tensor, db: Tensor) -> Grads:
    return dx, dw, db * 0


def _large_dw(dx: Tensor, dw: Tensor, db: Tensor) -> Grads:
    return dx, dw * 1.01, db


@pytest.mark.long
@pytest.mark.parametrize("wrong", [_no_db, _large_dw])
def test_a_wrong_gradient_is_not(eager, wrong: Callable[..., Grads], monkeypatch):
    cpu = backends.get("cpu")
    right: Callable[..., Any] = cpu.conv3x3_backward
    monkeypatch.setattr(cpu, "conv3x3_backward", lambda *args: wrong(*right(*args)))
    distance = _from_eager(_curve("cpu"), eager)
    assert distance > _limit(eager)


@pytest.mark.long
def test_a_layer_without_momentum_is_not(eager):
    distance = _from_eager(_curve("cpu", still=8), eager)
    assert distance > _limit(eager)
