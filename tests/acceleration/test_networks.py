"""Networks as others write them: outputs, gradients and ten steps agree with the original's."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import vggfast
from tests.tolerance import assert_close

from .networks import NETWORKS

pytestmark = pytest.mark.usefixtures("one_thread")

# Several layers, each rounded on its own, where the policy speaks of one.
LAYERS = 2e-6
STEPS = 10


@pytest.fixture(autouse=True)
def plain_sums() -> Iterator[None]:
    """No fast algorithm, which would have an error of its own."""
    with vggfast.exact():
        yield


def images(last: bool) -> Tensor:
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last) if last else x


def outcome(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output, the gradients of the images and of all parameters."""
    model.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    parameters = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {"output": y.detach(), "dx": x.grad, "dw": torch.cat(parameters)}


def flat(state: dict[str, Tensor]) -> Tensor:
    """Everything a state dict holds, but for counters, copied into one vector."""
    return torch.cat([v.flatten() for v in state.values() if v.is_floating_point()])


def compare(ours: dict[str, Tensor], torchs: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    for name, right in exact.items():
        assert ours[name].shape == right.shape
        assert ours[name].stride() == torchs[name].stride(), name
        assert_close(name, ours[name], right, torchs[name], algorithm=LAYERS)


CASES = [(name, False) for name in NETWORKS]
CASES += [(name, True) for name in NETWORKS if name not in ("ssd", "style")]  # they view maps


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("name", "last"), CASES)
def test_outputs_and_gradients(name: str, training: bool, last: bool) -> None:
    model = NETWORKS[name]().train(training)
    for m in model.modules():  # statistics that are not 0 and 1
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
    wide = copy.deepcopy(model).double()
    fast = vggfast.accelerate(copy.deepcopy(model))
    x = images(last)
    compare(outcome(fast, x), outcome(model, x), outcome(wide, x.double()))


@pytest.mark.parametrize("name", NETWORKS)
def test_ten_steps(name: str) -> None:
    """In place, with an optimizer that was made before; the state dict is the original's."""
    model = NETWORKS[name]().train()
    wide, fast = copy.deepcopy(model).double(), copy.deepcopy(model)

    def trained(m: nn.Module, x: Tensor, inplace: bool) -> dict[str, Tensor]:
        optimizer = torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        if inplace:
            assert vggfast.accelerate(m, inplace=True) is m
        for _ in range(STEPS):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
        return m.state_dict()

    x = images(False)
    before = flat(model.state_dict())
    ours, torchs = trained(fast, x, True), trained(model, x, False)
    exact = trained(wide, x.double(), False)
    assert list(ours) == list(torchs)
    assert_close("state", flat(ours), flat(exact), flat(torchs), algorithm=LAYERS)
    assert not torch.equal(flat(ours), before)
