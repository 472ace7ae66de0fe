"""An accelerated network in torch's systems: compile, export, autocast, fx, func, checkpoint."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import vggfast

from .networks import SSD, TorchvisionVGG, UNet, conv

pytestmark = pytest.mark.usefixtures("one_thread")
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make", [TorchvisionVGG, SSD])
def test_compile_without_a_graph_break(make: type[nn.Module], training: bool) -> None:
    model = make().train(training)
    # aot_eager traces forward and backward as inductor would be given them, and compiles nothing.
    compiled = torch.compile(vggfast.accelerate(model), fullgraph=True, backend="aot_eager")
    y = compiled(X)
    close(y, model(X))
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(model(X).sum(), parameters, allow_unused=True)
    found = torch.autograd.grad(y.sum(), parameters, allow_unused=True)
    for a, b in zip(found, wanted, strict=True):
        if b is not None:
            close(a, b)


@pytest.mark.long
def test_inductor() -> None:
    model = TorchvisionVGG().eval()
    close(torch.compile(vggfast.accelerate(model), fullgraph=True)(X), model(X))


@pytest.mark.parametrize("strict", [False, True])
def test_export_round_trip(strict: bool) -> None:
    model = TorchvisionVGG(batch_norm=True).eval()
    program = torch.export.export(vggfast.accelerate(model), (X,), strict=strict)
    assert any("vggfast.conv3x3" in str(node.target) for node in program.graph.nodes)
    close(program.module()(X), model(X))


@pytest.mark.parametrize("make", [TorchvisionVGG, UNet, SSD])
def test_autocast(make: type[nn.Module]) -> None:
    model = make().eval()
    fast = vggfast.accelerate(model, dtype=torch.float16)  # autocast's own dtype counts
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = fast(X), model(X)
    assert ours.dtype is theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool) -> None:
    model = TorchvisionVGG()
    fast = vggfast.accelerate(model)
    x = X.clone().requires_grad_()
    parameters = list(model.features.parameters())
    model.features(x).square().sum().backward()
    wanted = [p.grad.clone() for p in parameters]
    model.zero_grad()
    checkpoint(fast.features, x, use_reentrant=reentrant).square().sum().backward()
    for p, right in zip(parameters, wanted, strict=True):
        close(p.grad, right)


def test_fx_sees_torchs_layers() -> None:
    """So do feature extractors by node name, which trace with it."""
    model = TorchvisionVGG().eval()
    graph = torch.fx.symbolic_trace(vggfast.accelerate(model))
    close(graph(X), model(X))
    assert not any("vggfast" in str(node.target) for node in graph.graph.nodes)


def test_func_runs_torchs_layers() -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4))
    fast = vggfast.accelerate(model)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(m: nn.Module):
        return lambda p, x: torch.func.functional_call(m, p, (x[None],)).square().sum()

    def each(m: nn.Module):
        return torch.func.vmap(torch.func.grad(loss(m)), (None, 0))(parameters, X)

    for name, right in each(model).items():
        close(each(fast)[name], right)


@pytest.mark.parametrize("layers", [1, 4])
def test_a_second_derivative_is_an_error(layers: int) -> None:
    model = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4), nn.ReLU())[:layers]
    fast = vggfast.accelerate(model)
    x = X.clone().requires_grad_()
    (dx,) = torch.autograd.grad(fast(x).sum(), x, create_graph=True)
    (wanted,) = torch.autograd.grad(model(x).sum(), x)
    close(dx, wanted)
    with pytest.raises(RuntimeError, match=r"vggfast::\w+ is differentiable once"):
        dx.square().sum().backward()
    again = vggfast.restore(copy.deepcopy(fast))
    (dx,) = torch.autograd.grad(again(x).sum(), x, create_graph=True)
    dx.square().sum().backward()
    assert again[0].weight.grad.abs().sum() > 0
