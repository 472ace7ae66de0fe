"""conv3x3_chain: layer by layer what conv3x3 gives, as one node that keeps and frees the same."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from vggfast import ops
from vggfast.backends.base import Backend
from vggfast.backends.eager import EagerBackend
from vggfast.errors import InputError

V = torch.ops.vggfast


class Case(NamedTuple):
    size: tuple[int, int, int]  # N, H, W
    channels: tuple[int, ...]  # C_0, C_1, ...
    pools: tuple[bool, ...]
    biased: tuple[bool, ...]


CASES = {
    "one layer": Case((2, 6, 5), (3, 4), (False,), (True,)),
    "one pooled layer": Case((2, 6, 5), (3, 4), (True,), (True,)),
    "pool at the end": Case((2, 6, 8), (3, 8, 5), (False, True), (True, True)),
    "pool first, odd map": Case((2, 7, 9), (3, 6, 5, 4), (True, False, False), (True, False, True)),
    "pools within": Case((1, 13, 10), (2, 8, 5, 12, 6), (True, False, True, False), (True,) * 4),
    "no images": Case((0, 6, 8), (3, 8, 5), (True, False), (True, False)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(params=[False, True], ids=["layer by layer", "in steps"])
def fuses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether eager's chains go by conv3x3_chain_step (its plain default), as a GPU's do."""
    monkeypatch.setattr(EagerBackend, "fuses_chains", request.param)
    return bool(request.param)


def _tensors(case: Case, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], list[Tensor | None]]:
    n, h, w = case.size
    x = torch.randn(n, case.channels[0], h, w, dtype=dtype).requires_grad_()
    pairs = list(zip(case.channels[1:], case.channels[:-1], strict=True))
    weights = [(torch.randn(o, i, 3, 3, dtype=dtype) * (2 / (9 * i)) ** 0.5) for o, i in pairs]
    biases = [
        torch.randn(o, dtype=dtype).requires_grad_() if b else None
        for (o, _), b in zip(pairs, case.biased, strict=True)
    ]
    return x, [w.requires_grad_() for w in weights], biases


def _apart(x: Tensor, weights: Any, biases: Any, pools: Any, backend: str | None = None) -> Tensor:
    for w, b, pool in zip(weights, biases, pools, strict=True):
        x = ops.conv3x3(x, w, b, relu=True, pool=pool, backend=backend)
    return x


def _leaves(x: Tensor, weights: list[Tensor], biases: list[Tensor | None]) -> list[Tensor]:
    wanted = [x, *weights, *(b for b in biases if b is not None)]
    return [t for t in wanted if t.requires_grad]


@pytest.mark.parametrize("recompute_first", [False, True])
@pytest.mark.parametrize("backend", ["eager", "cpu"])
@every_case
def test_equals_layers_apart_bit_for_bit(case, backend, recompute_first):
    x, weights, biases = _tensors(case, torch.float32)
    leaves = _leaves(x, weights, biases)
    want = _apart(x, weights, biases, case.pools, backend)
    grad = torch.randn_like(want)
    got = ops.conv3x3_chain(
        x, weights, biases, case.pools, recompute_first=recompute_first, backend=backend
    )
    assert torch.equal(got, want)
    assert got.stride() == want.stride()
    for a, b in zip(
        torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("recompute_first", [False, True])
@every_case
def test_steps_give_the_gradients_of_layers_apart(case, recompute_first, monkeypatch):
    """dx and dw bit for bit; a bias gradient is the sum of the same numbers in another order."""
    x, weights, biases = _tensors(case, torch.float64)
    leaves = _leaves(x, weights, biases)
    want = _apart(x, weights, biases, case.pools, "eager")
    grad = torch.randn_like(want)
    expected = torch.autograd.grad(want, leaves, grad)
    monkeypatch.setattr(EagerBackend, "fuses_chains", True)
    y = ops.conv3x3_chain(
        x, weights, biases, case.pools, recompute_first=recompute_first, backend="eager"
    )
    for leaf, a, b in zip(leaves, torch.autograd.grad(y, leaves, grad), expected, strict=True):
        if leaf.dim() == 1:
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("pools", [(False, True), (True, False)])
def test_gradcheck(pools, fuses):
    x, weights, biases = _tensors(Case((1, 5, 4), (2, 3, 2), pools, (True, True)), torch.float64)

    def function(x, *rest):
        return ops.conv3x3_chain(x, rest[:2], rest[2:], pools, backend="eager")

    assert torch.autograd.gradcheck(function, (x, *weights, *biases), fast_mode=True)


@pytest.mark.parametrize("trained", [(), (0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
@pytest.mark.parametrize("x_needs", [False, True])
@pytest.mark.parametrize("recompute_first", [False, True])
def test_frozen_layers(trained, x_needs, recompute_first, fuses, monkeypatch):
    """Frozen weights get no wgrad, layers below the lowest trained one nothing; the rest is as is.

    Layer 2 trains its bias alone where it trains with another.
    """
    case = Case((2, 9, 8), (3, 6, 5, 4), (False, True, False), (True, True, True))
    x, weights, biases = _tensors(case, torch.float64)
    x.requires_grad_(x_needs)
    for i in range(3):
        weights[i].requires_grad_(i in trained and not (i == 2 and len(trained) > 1))
        biases[i].requires_grad_(i in trained)
    leaves = _leaves(x, weights, biases)
    want = _apart(x, weights, biases, case.pools, "eager")
    y = ops.conv3x3_chain(
        x, weights, biases, case.pools, recompute_first=recompute_first, backend="eager"
    )
    assert torch.equal(y, want)
    assert y.requires_grad == bool(leaves)
    if not leaves:
        return
    grad = torch.randn_like(want)
    expected = torch.autograd.grad(want, leaves, grad)
    asked = []
    real = EagerBackend.conv3x3_backward

    def backward(self, grad, x, w, y, argmax, relu, pool, needs):
        asked.append(needs[1])
        return real(self, grad, x, w, y, argmax, relu, pool, needs)

    monkeypatch.setattr(EagerBackend, "conv3x3_backward", backward)
    for a, b in zip(torch.autograd.grad(y, leaves, grad), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert sum(asked) == sum(w.requires_grad for w in weights)
    lowest = 0 if x_needs else min(trained)
    # In steps the top's own way back through its ReLU may be all a layer does.
    assert len(asked) <= 3 - lowest


def _kept(function, *args, **options) -> dict[int, int]:
    """The bytes of each storage that autograd saves, leaves aside."""
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if not (t.is_leaf and t.requires_grad):
            storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = function(*args, **options)
        storages.pop(y.untyped_storage().data_ptr(), None)
    return storages


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_keeps_what_layers_apart_keep(frozen):
    case = Case((2, 16, 16), (3, 16, 8, 4), (False, True, True), (True, True, True))
    x, weights, biases = _tensors(case, torch.float32)
    x.requires_grad_(False)
    for w, b in zip(weights[:frozen], biases[:frozen], strict=True):
        w.requires_grad_(False)
        b.requires_grad_(False)
    parameters = {t.data_ptr() for t in (*weights, *biases)}

    def kept(function, **options) -> int:
        found = _kept(function, x, weights, biases, case.pools, **options)
        return sum(size for at, size in found.items() if at not in parameters)

    apart, chain = kept(_apart), kept(ops.conv3x3_chain)
    assert chain == apart
    again = kept(ops.conv3x3_chain, recompute_first=True)
    first_map, x_bytes = 4 * 2 * 16 * 16 * 16, 4 * 2 * 3 * 16 * 16
    # With the first layer frozen its output is an input only, and x is kept in its place.
    assert again == apart - (first_map, first_map - x_bytes, 0)[frozen]


def test_maps_are_let_go_of_on_the_way_down(fuses, monkeypatch):
    """When the lowest layer's turn comes only its own output may be alive."""
    case = Case((1, 16, 16), (3, 8, 8, 8, 8), (False, True, False, False), (True,) * 4)
    x, weights, biases = _tensors(case, torch.float32)
    outputs: list[StorageWeakRef] = []
    alive: list[list[bool]] = []
    forward, backward = EagerBackend.conv3x3, EagerBackend.conv3x3_backward

    def watched_forward(self, *args):
        y, argmax = forward(self, *args)
        outputs.append(StorageWeakRef(y.untyped_storage()))
        return y, argmax

    def watched_backward(self, *args):
        alive.append([not y.expired() for y in outputs])
        return backward(self, *args)

    monkeypatch.setattr(EagerBackend, "conv3x3", watched_forward)
    monkeypatch.setattr(EagerBackend, "conv3x3_backward", watched_backward)
    loss = ops.conv3x3_chain(x, weights, biases, case.pools, backend="eager").sum()
    loss.backward(retain_graph=True)  # the graph is kept, and so is what it holds
    assert alive[-1][:3] == [True] * 3
    loss.backward()
    assert alive[-1] == [not fuses, False, False, False]


def test_a_kept_graph_is_walked_twice(fuses):
    x, weights, biases = _tensors(CASES["pools within"], torch.float64)
    y = ops.conv3x3_chain(x, weights, biases, CASES["pools within"].pools, backend="eager")
    leaves = _leaves(x, weights, biases)
    first = torch.autograd.grad(y.sum(), leaves, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(y.sum(), leaves), strict=True):
        assert torch.equal(a, b)


def test_nothing_is_kept_without_gradients():
    case = CASES["pools within"]
    x, weights, biases = _tensors(case, torch.float32)
    placed = [torch.empty(0) if b is None else b for b in biases]
    with torch.no_grad():
        y = ops.conv3x3_chain(x, weights, biases, case.pools)
    _, inner, codes = V.conv3x3_chain(x, weights, placed, case.pools, 4, False, None)
    assert all(t.numel() == 0 for t in (*inner, *codes))
    assert torch.equal(y, _apart(x, weights, biases, case.pools))


def _op_arguments(first: int, recompute_first: bool, backend: str = "eager") -> tuple[Any, ...]:
    x, weights, biases = _tensors(CASES["pool first, odd map"], torch.float32)
    placed = [torch.empty(0) if b is None else b for b in biases]
    return x, weights, placed, [True, False, False], first, recompute_first, backend


def _map(*shape: int) -> Tensor:
    return torch.randn(*shape).to(memory_format=torch.channels_last)


OP_CASES = {
    "conv3x3_chain": lambda: _op_arguments(0, False),
    "conv3x3_chain recomputing": lambda: _op_arguments(0, True),
    "conv3x3_dz": lambda: (
        _map(2, 5, 3, 4), _map(2, 5, 3, 4), torch.zeros(2, 3, 4, 2, dtype=torch.uint8), 7, 8, True,
        None,
    ),
    "conv3x3_dz bare": lambda: (_map(2, 5, 3, 4), _map(2, 5, 3, 4), None, 3, 4, False, None),
    "conv3x3_chain_step": lambda: (
        _map(2, 6, 3, 4), _map(2, 5, 3, 4), torch.randn(6, 5, 3, 3),
        torch.zeros(2, 3, 4, 2, dtype=torch.uint8), 7, 8, [True, True], "eager",
    ),
    "conv3x3_chain_step bare": lambda: (
        _map(2, 6, 3, 4), _map(2, 5, 3, 4), torch.randn(6, 5, 3, 3), None, 3, 4, [False, False],
        "eager",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", OP_CASES)
def test_opcheck(case):
    torch.library.opcheck(getattr(V, case.split()[0]).default, OP_CASES[case]())


def test_compile_traces_forward_and_backward_without_a_break(fuses):
    case = CASES["pools within"]
    x, weights, biases = _tensors(case, torch.float64)

    def function(x, *rest):
        y = ops.conv3x3_chain(
            x, rest[:4], rest[4:], case.pools, recompute_first=True, backend="eager"
        )
        return y.sum()

    leaves = (x, *weights, *biases)
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(*leaves), leaves)
    for a, b in zip(got, torch.autograd.grad(function(*leaves), leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_autocast(fuses):
    case = CASES["pools within"]
    x, weights, biases = _tensors(case, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ops.fuses_chains(x, "eager") == fuses
        y = ops.conv3x3_chain(x, weights, biases, case.pools, backend="eager")
        want = _apart(x, weights, biases, case.pools, "eager")
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, want)
    leaves = _leaves(x, weights, biases)
    for a, b in zip(
        torch.autograd.grad(y.float().sum(), leaves),
        torch.autograd.grad(want.float().sum(), leaves),
        strict=True,
    ):
        assert a.dtype is torch.float32
        assert ((a - b).norm() <= 0.02 * b.norm()).item()  # bfloat16's eps is 0.0078


X, W, B = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
NEXT = torch.randn(2, 4, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((X, [], [], []), ["weights:", "none", "at least one"]),
        ((X, [W], [], [True]), ["biases:", "0", "each of the 1"]),
        ((X, [W], [B], [True, False]), ["pools:", "2", "each of the 1"]),
        ((X[0], [W], [B], [False]), ["x:", "(3, 8, 8)", "(N, C, H, W)"]),
        ((X, [W, W], [B, B], [False] * 2), ["weights[1]:", "(4, 3, 3, 3)", "C_in = 4 of layer 0"]),
        ((X, [W, NEXT], [B, B], [False] * 2), ["biases[1]:", "(4,)", "(2,)"]),
        ((X, [W, NEXT.double()], [B, None], [False] * 2), ["weights[1]:", "float64", "float32"]),
        ((X, [W, 3], [B, None], [False] * 2), ["weights[1]:", "int", "torch.Tensor"]),
        ((X, [W], [B[:0]], [False]), ["biases[0]:", "(0,)", "(C_out,)"]),
        ((X[:, :, :3], [W, NEXT], [B, None], [True] * 2), ["x:", "1 x 4", "pool of layer 1"]),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError) as caught:
        ops.conv3x3_chain(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_only_backends_that_say_so_fuse():
    assert not Backend.fuses_chains
    assert not ops.fuses_chains(torch.empty(1, 3, 4, 4), "eager")
    assert not ops.fuses_chains(torch.empty(1, 3, 4, 4))
