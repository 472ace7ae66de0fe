"""A chain's backward pass by the Triton kernels: the step against float64, and what it launches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from triton_cases import DTYPES, GPU, assert_close, maps, weights
from vggfast.kernels import launch, ops, tiles
from vggfast.kernels.launch import gpu

from vggfast import ops as public
from vggfast.backends.eager import EagerBackend
from vggfast.nn import FusedSequential

EAGER = EagerBackend()
ENTRIES = [
    t
    for t in tiles.table()
    if t.kernel == "fprop" and (not GPU or t.arch == gpu.arch(torch.device("cuda")))
]
# (N, C of x, C of dz, HB, WB): map (HB, WB) of the layer below, before its pool if it has one.
# Channels that need padding, odd maps, several tiles along channels and pixels, N no box divides.
SIZES = (
    (1, 1, 1, 2, 2),
    (2, 3, 5, 9, 6),
    (1, 72, 8, 7, 37),
    (5, 8, 24, 3, 3),
    (33, 8, 8, 4, 5),
)


def inputs(
    size: tuple[int, ...], pool: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """dz, x (the output of a layer with a ReLU), w, and the argmax of that layer's pool or None."""
    n, c, c_out, hb, wb = size
    x = maps((n, c, hb, wb), dtype, device, seed=1).relu()
    x, argmax = EAGER.maxpool2x2(x, True) if pool else (x, None)
    w, _ = weights(c_out, c, dtype, device, seed=1)
    return maps((n, c_out, *x.shape[2:]), dtype, device, seed=2), x, w, argmax


def check(
    size: tuple[int, ...], pool: bool, dtype: torch.dtype, device: torch.device, dw: bool = True
) -> None:
    n, c, c_out, hb, wb = size
    dz, x, w, argmax = inputs(size, pool, dtype, device)
    every = (argmax, (hb, wb), (dw, True))
    ours = ops.conv3x3_chain_step(dz, x, w, argmax, hb, wb, every[2])
    theirs = EAGER.conv3x3_chain_step(dz, x, w, *every)
    oracle = EAGER.conv3x3_chain_step(dz.double(), x.double(), w.double(), *every)
    terms = (9 * c_out, n * hb * wb, n * hb * wb + 9 * c_out)
    for what, a, b, e, k in zip(("dz below", "dw", "db"), ours, theirs, oracle, terms, strict=True):
        if dw or what != "dw":
            assert_close(f"{what}, pool={pool}", a, b, e, k)
    assert ours[0].shape == (n, c, hb, wb)
    assert ours[0].permute(0, 2, 3, 1).is_contiguous()
    # What the mask and the pool leave out is exactly zero, not small.
    assert torch.equal(ours[0] == 0, oracle[0] == 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_step(size: tuple[int, ...], pool: bool, dtype: torch.dtype, device: torch.device) -> None:
    check(size, pool, dtype, device)


@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
def test_every_entry_serves_a_step(tile: tiles.Tile, device: torch.device) -> None:
    """An odd map behind a pool, with a part box on each side, by descriptors and by pointers."""
    dtype = torch.float16 if tile.bits == 16 else torch.float32
    h, w = (min(side + 1, 5) for side in tile.box[1:])
    with tiles.forced(tile):
        check((1, 12, 8, 2 * h + 1, 2 * w + 1), True, dtype, device, dw=False)


@pytest.mark.parametrize("arch", sorted({t.arch for t in ENTRIES}))
def test_no_pool_by_descriptors_and_by_pointers(arch: int, device: torch.device) -> None:
    with tiles.forced(next(t for t in ENTRIES if (t.arch, t.bits) == (arch, 32))):
        check((2, 12, 8, 5, 9), False, torch.float32, device, dw=False)


def test_nan_and_zero_in_the_mask(device: torch.device) -> None:
    """A NaN in x passes the gradient on, a zero of either sign does not; dz's NaN stays masked."""
    dz, x, w, _ = inputs((1, 8, 8, 6, 6), False, torch.float32, device)
    x[0, :, 1] = float("nan")
    x[0, :, 2] = -0.0
    plain, _, _ = ops.conv3x3_backward(dz, x, w, None, None, (True, False, False))
    below, _, db = ops.conv3x3_chain_step(dz, x, w, None, 6, 6, (False, True))
    assert plain is not None
    expected = torch.where(x <= 0, 0, plain)
    assert torch.equal(below, expected)
    torch.testing.assert_close(db, expected.sum((0, 2, 3)))
    dz[0, 0, 2, 2] = float("nan")
    lost, _, _ = ops.conv3x3_chain_step(dz, x, w, None, 6, 6, (False, False))
    assert torch.equal(lost[0, :, 2], torch.zeros_like(lost[0, :, 2]))
    assert lost[0, :, 1].isnan().any()


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_what_is_not_needed_is_none(needs: tuple[bool, bool], device: torch.device) -> None:
    dz, x, w, argmax = inputs((2, 8, 4, 6, 7), True, torch.float32, device)
    every = ops.conv3x3_chain_step(dz, x, w, argmax, 6, 7, (True, True))
    some = ops.conv3x3_chain_step(dz, x, w, argmax, 6, 7, needs)
    for wanted, a, b in zip((True, *needs), some, every, strict=True):
        assert (a is not None) == wanted
        assert b is not None
        assert a is None or torch.equal(a, b)


@pytest.mark.parametrize("pool", [False, True])
def test_dz_of_the_top_layer(pool: bool, device: torch.device) -> None:
    _, y, _, argmax = inputs((2, 5, 4, 7, 6), pool, torch.float32, device)
    grad = maps(tuple(y.shape), torch.float32, device, seed=3)
    dz, db = ops.conv3x3_dz(grad, y, argmax, 7, 6, True)
    expected, sums = EAGER.conv3x3_dz(grad, y, argmax, (7, 6), True)
    assert torch.equal(dz, expected)
    assert dz.permute(0, 2, 3, 1).is_contiguous()
    torch.testing.assert_close(db, sums)
    assert ops.conv3x3_dz(grad, y, argmax, 7, 6, False)[1] is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_runs_are_bit_identical(dtype: torch.dtype, device: torch.device) -> None:
    dz, x, w, argmax = inputs((3, 12, 20, 10, 9), True, dtype, device)
    first, second = (
        ops.conv3x3_chain_step(dz, x, w, argmax, 10, 9, (True, True)) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert a is not None
        assert b is not None
        assert torch.equal(a, b)


@pytest.mark.parametrize("rows", [1, 16, 17, 1000])
def test_bias_sums_of_many_boxes(rows: int, device: torch.device) -> None:
    partial = torch.randn(rows, 70, generator=torch.Generator().manual_seed(rows)).to(device)
    db = launch.dgrad._row_sum(partial, torch.float32)
    torch.testing.assert_close(db, partial.double().sum(0).float(), rtol=1e-5, atol=1e-5)


def test_no_images(device: torch.device) -> None:
    dz, x, w, argmax = inputs((0, 8, 16, 4, 4), True, torch.float32, device)
    below, dw, db = ops.conv3x3_chain_step(dz, x, w, argmax, 4, 4, (True, True))
    assert below.shape == (0, 8, 4, 4)
    assert dw is not None
    assert torch.equal(dw, torch.zeros_like(w))
    assert torch.equal(db, torch.zeros(8, device=device))


CHANNELS, POOLS = (3, 16, 24, 8), (False, True, False)


def layers(device: torch.device, x_needs: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    pairs = [weights(o, i, torch.float32, device, seed=o) for i, o in pairwise(CHANNELS)]
    x = maps((2, 3, 9, 10), torch.float32, device, seed=5).requires_grad_(x_needs)
    return x, *([p[k].requires_grad_() for p in pairs] for k in range(2))  # type: ignore[return-value]


def apart(x: Tensor, ws: list[Tensor], bs: list[Tensor], backend: str) -> Tensor:
    for w, b, pool in zip(ws, bs, POOLS, strict=True):
        x = public.conv3x3(x, w, b, relu=True, pool=pool, backend=backend)
    return x


@pytest.mark.parametrize("recompute_first", [False, True])
def test_a_chain_through_autograd(recompute_first: bool, device: torch.device) -> None:
    """Equal to eager's layers; to our own layers apart bit for bit, but for the sums of db."""
    x, ws, bs = layers(device, True)
    leaves = [x, *ws, *bs]
    y = public.conv3x3_chain(x, ws, bs, POOLS, recompute_first=recompute_first, backend="triton")
    grad = maps(tuple(y.shape), torch.float32, device, seed=6)
    ours = [y, *torch.autograd.grad(y, leaves, grad)]
    for backend in ("triton", "eager"):
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            want = apart(x, ws, bs, backend)
            theirs = [want, *torch.autograd.grad(want, leaves, grad)]
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            assert backend == "eager" or a.dim() == 1 or torch.equal(a, b)


class Launches:
    """Stands in for a kernel and takes note of its launches instead of launching it."""

    def __init__(self, name: str, seen: Counter[str]) -> None:
        self.name, self.seen = name, seen

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launched(*arguments: Any, **constants: Any) -> None:
            self.seen[self.name] += 1

        return launched


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the launches by kernel; none runs."""
    seen: Counter[str] = Counter()
    for module in (launch.fprop, launch.dgrad, launch.wgrad, launch.pool):
        for name in [n for n in vars(module) if n.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Launches(name, seen))
    return seen


class Passes(TorchDispatchMode):
    """Takes note of torch's own ops on tensors of at least ``size`` elements, views aside."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.seen = size, []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # These tests fill what torch.empty gives.
        allocates = any(name in str(func) for name in ("empty", "fill_"))
        if not (allocates or func.is_view) and isinstance(out, Tensor) and out.numel() >= self.size:
            self.seen.append(str(func))
        return out


ELEMENTWISE = {"pool_backward_kernel", "relu_backward_kernel"}


def test_two_gemms_a_layer_and_one_pass_at_the_top(
    launches: Counter[str], device: torch.device
) -> None:
    """Of three layers: three wgrads, two fused dgrads, one way back through the top's ReLU."""
    x, ws, bs = layers(device, False)
    y = public.conv3x3_chain(x, ws, bs, POOLS, backend="triton")
    launches.clear()
    torch.autograd.grad(y, [*ws, *bs], torch.ones_like(y))
    stages = launches.pop("conv3x3_dgrad_sum_kernel")  # of the sums of two bias gradients
    assert 2 <= stages <= 2 * 2
    assert launches == {
        "relu_backward_kernel": 1, "column_sum_kernel": 1,  # the top's dz and db
        "conv3x3_dgrad_kernel": 2, "conv3x3_wgrad_kernel": 3, "conv3x3_wgrad_sum_kernel": 3,
    }  # fmt: skip
    y = apart(x, ws, bs, "triton")
    launches.clear()
    torch.autograd.grad(y, [*ws, *bs], torch.ones_like(y))
    assert sum(launches[name] for name in ELEMENTWISE) == 3
    assert launches["conv3x3_dgrad_kernel"] == 0


def test_fused_sequential_trains_in_a_chain(launches: Counter[str], device: torch.device) -> None:
    model = FusedSequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), backend="triton",
    ).to(device)  # fmt: skip
    y = model(maps((2, 3, 8, 8), torch.float32, device, seed=7))
    torch.autograd.grad(y, list(model.parameters()), torch.ones_like(y))
    assert launches["conv3x3_dgrad_kernel"] == 1
    assert sum(launches[name] for name in ELEMENTWISE) == 1


@pytest.mark.parametrize("pool", [False, True])
def test_a_step_makes_no_pass_of_torchs(
    pool: bool, launches: Counter[str], device: torch.device
) -> None:
    size = (2, 16, 8, 33, 34)
    dz, x, w, argmax = inputs(size, pool, torch.float32, device)
    smallest = min(dz.numel(), x.numel())
    assert smallest > 9 * 16 * 8, "a pass over a map must not pass for one over the weights"
    with Passes(smallest) as passes:
        ops.conv3x3_chain_step(dz, x, w, argmax, 33, 34, (True, True))
        assert passes.seen == []
        torch.where(x <= 0, 0, x)  # what is looked for would be seen
        assert passes.seen
    assert not ELEMENTWISE & launches.keys()
