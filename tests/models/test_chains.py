"""FusedSequential serves runs of conv3x3 + ReLU (+ pool) by one op where the backend fuses them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import vggfast
from vggfast import ops
from vggfast.backends.eager import EagerBackend
from vggfast.errors import InputError
from vggfast.nn import FusedSequential


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lets eager fuse chains; the lengths of those that are served."""
    lengths: list[int] = []
    real = ops.conv3x3_chain

    def chain(x, weights, *rest, **options):
        lengths.append(len(weights))
        return real(x, weights, *rest, **options)

    monkeypatch.setattr(ops, "conv3x3_chain", chain)
    monkeypatch.setattr(EagerBackend, "fuses_chains", True)
    return lengths


def conv(c_in: int, c_out: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, size, padding=size // 2)


def relu() -> nn.ReLU:
    return nn.ReLU(inplace=False)


def _gradients(model: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]) -> list:
    y = model(x)
    return [y, *torch.autograd.grad(y.square().sum(), [x, *parameters])]


@pytest.mark.parametrize(
    ("children", "lengths"),
    [
        (lambda: [conv(3, 4), relu(), conv(4, 5), relu(), nn.MaxPool2d(2)], [2]),
        (lambda: [conv(3, 4), relu(), nn.MaxPool2d(2), conv(4, 5), relu(), conv(5, 2), relu()],
         [3]),
        (lambda: [conv(3, 4), relu()], []),
        (lambda: [conv(3, 4), relu(), conv(4, 4), conv(4, 4), relu(), conv(4, 4), relu()], [2]),
        (lambda: [conv(3, 4), relu(), conv(4, 4), relu(), conv(4, 4)], [2]),
        (lambda: [conv(3, 4), relu(), conv(4, 4), relu(), conv(4, 4, 1), relu(),
                  *(m for _ in range(3) for m in (conv(4, 4), relu()))], [2, 3]),
        (lambda: [conv(3, 4), relu(), nn.LocalResponseNorm(3), conv(4, 4), relu(), conv(4, 4),
                  relu()], [2]),
        (lambda: [conv(3, 4), relu(), nn.BatchNorm2d(4), conv(4, 4), nn.BatchNorm2d(4), relu()],
         []),
        (lambda: [conv(3, 4), nn.BatchNorm2d(4).eval(), relu(), conv(4, 4), relu()], [2]),
        (lambda: [conv(3, 4), relu(), nn.MaxPool2d(3, 2), conv(4, 4), relu(), conv(4, 4), relu()],
         [2]),
    ],
    ids=["pool last", "pool within", "one layer", "conv without ReLU", "bare conv last", "1x1 conv",
         "LRN", "batch norm in training", "batch norm folded", "another pool"],
)  # fmt: skip
def test_runs(children, lengths, chains):
    model = FusedSequential(*children(), backend="eager").double()
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    parameters = list(model.parameters())
    got = _gradients(model, x, parameters)
    assert chains == lengths
    for a, b in zip(got, _gradients(nn.Sequential(*model), x, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_a_hook_ends_a_chain(chains):
    model = FusedSequential(
        *(m for _ in range(4) for m in (conv(3, 3), relu())), backend="eager"
    ).double()
    seen: list[Tensor] = []
    model[3].register_forward_hook(lambda m, inputs, output: seen.append(output))
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    y = model(x)
    assert chains == [2]  # layer 0 | layer 1, whose ReLU is watched | layers 2 and 3
    plain = nn.Sequential(*model)
    torch.testing.assert_close(y, plain(x))
    torch.testing.assert_close(seen[0], seen[1])


def test_a_map_too_small_for_a_pool_is_an_error_as_before(chains):
    model = FusedSequential(
        conv(3, 4), relu(), nn.MaxPool2d(2), conv(4, 4), relu(), nn.MaxPool2d(2), backend="eager"
    )
    with pytest.raises(InputError, match="H, W >= 2"):
        model(torch.randn(1, 3, 2, 2))


def test_no_chain_without_gradients(chains):
    model = FusedSequential(conv(3, 4), relu(), conv(4, 4), relu(), backend="eager")
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        model(x)
    model.requires_grad_(False)(x)
    assert chains == []
    model(x.requires_grad_())
    assert chains == [2]


def test_no_chain_where_the_backend_does_not_fuse(chains, monkeypatch):
    monkeypatch.setattr(EagerBackend, "fuses_chains", False)
    model = FusedSequential(conv(3, 4), relu(), conv(4, 4), relu(), backend="eager")
    model(torch.randn(1, 3, 4, 4))
    assert chains == []


@pytest.mark.parametrize(("net", "lengths"), [("A", [8]), ("A-LRN", [7]), ("C", [6, 2, 2]),
                                              ("D", [13])])  # fmt: skip
def test_networks(net, lengths, chains):
    model = vggfast.vgg(net, num_classes=3, crop=32, backend="eager")
    model(torch.randn(1, 3, 32, 32))
    assert chains == lengths


def test_compile_finds_the_chain(chains):
    """A compiler takes the choice of the backend as it is, and does not stumble over it."""
    model = FusedSequential(conv(3, 4), relu(), conv(4, 4), relu(), backend="eager").double()
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    parameters = list(model.parameters())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got = _gradients(compiled, x, parameters)
    assert chains == [2]
    for a, b in zip(got, _gradients(model, x, parameters), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("recompute", [False, True])
def test_recomputing_the_first_output_keeps_less(recompute: bool, chains: list[int]) -> None:
    """The gradients stay; what is kept loses the first layer's map, also in a slice."""
    layers = [conv(3, 8), relu(), conv(8, 4), relu(), nn.MaxPool2d(2), conv(4, 4), relu()]
    torch.manual_seed(1)
    plain = FusedSequential(*layers, backend="eager").double()
    model = FusedSequential(*layers, backend="eager", recompute_first=recompute)[:]
    assert model.recompute_first == recompute
    x = torch.randn(2, 3, 10, 12, dtype=torch.float64)
    kept: list[int] = []

    def pack(t: Tensor) -> Tensor:
        kept.append(t.numel())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = model(x)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(y.square().sum(), parameters)
    theirs = torch.autograd.grad(plain(x).square().sum(), parameters)
    assert all(map(torch.equal, ours, theirs))
    first = 2 * 8 * 10 * 12
    assert (first in kept) != recompute
    assert chains == [3, 3]


def test_recomputing_keeps_the_dtype_of_the_forward_pass(chains: list[int]) -> None:
    """Autocast that is on in the backward pass alone changes nothing, as in torch."""
    layers = [conv(3, 8), relu(), conv(8, 4), relu()]
    model = FusedSequential(*layers, backend="eager", recompute_first=True)
    y = model(torch.randn(1, 3, 6, 6))
    expected = torch.autograd.grad(y.sum(), list(model.parameters()), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = torch.autograd.grad(y.sum(), list(model.parameters()))
    assert all(map(torch.equal, ours, expected))


def test_a_forced_backend_is_not_asked_for_a_layer_that_nobody_has() -> None:
    """The cuda backend serves first layers alone; whether it fuses needs none."""
    assert not ops.fuses_chains(torch.zeros(1, 3, 4, 4), "cuda")
