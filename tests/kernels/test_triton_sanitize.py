"""One small case a kernel, for compute-sanitizer (`make gpu STAGE=sanitize`) and every other run.

``@pytest.mark.sanitize(KERNEL, ...)`` names the kernels that a test launches, which is checked.
Sizes are odd, so that boxes stick out of the maps on every side, and references are computed on the
CPU, so that a sanitizer watches few kernels of torch's.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_cases import assert_close, maps, weights
from vggfast.kernels import ops, tiles
from vggfast.kernels.launch import gluon, gpu

from vggfast import reference
from vggfast.backends.base import Backend
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()
KERNELS = Path(ops.__file__).parent
N, C_IN, C_OUT, H, W = 2, 24, 20, 9, 7
CPU = torch.device("cpu")


class Seen:
    """A kernel that notes its launches."""

    def __init__(self, kernel: Any, name: str, names: set[str]) -> None:
        self.kernel, self.name, self.names = kernel, name, names

    def __getitem__(self, grid: Any) -> Any:
        self.names.add(self.name)
        return self.kernel[grid]


@pytest.fixture(autouse=True)
def launched(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> Iterator[None]:
    """Fails a test that does not launch what its marker names."""
    marker = request.node.get_closest_marker("sanitize")
    wanted, seen = set(marker.args if marker else ()), set[str]()
    reason = gluon.unavailable(device)
    if "conv3x3_gluon_kernel" in wanted and reason is not None:
        pytest.skip(reason)
    for module in [m for m in sys.modules if m.startswith("vggfast.kernels.")]:
        for name in wanted & set(vars(sys.modules[module])):
            kernel = getattr(sys.modules[module], name)
            monkeypatch.setattr(sys.modules[module], name, Seen(kernel, name, seen))
    yield
    monkeypatch.undo()
    assert seen == wanted, "not launched"


def layer(device: torch.device, c_in: int = C_IN) -> tuple[Tensor, Tensor, Tensor]:
    x = maps((N, c_in, H, W), torch.float16, device, seed=1)
    return x, *weights(C_OUT, c_in, torch.float16, device, seed=1)


def check_forward(device: torch.device, c_in: int = C_IN) -> None:
    for pool in (False, True):
        args = layer(device, c_in)
        y, argmax = ops.conv3x3(*args, True, pool, pool)
        there = [a.cpu() for a in args]
        theirs, _ = EAGER.conv3x3(*there, True, pool, False)
        oracle = reference.conv3x3(*(a.double() for a in there), True, pool)
        assert_close("y", y.cpu(), theirs, oracle, 9 * c_in)
        assert (argmax is not None) == pool


def entry(device: torch.device, **wanted: object) -> tiles.Tile:
    """The first fprop entry for the device with these fields."""
    found = tiles.candidates("fprop", gpu.arch(device), 16)
    return next(t for t in found if all(getattr(t, k) == v for k, v in wanted.items()))


@pytest.mark.sanitize("pack3x3_kernel", "conv3x3_fprop_kernel")
def test_fprop(device: torch.device) -> None:
    """In one piece, and by a program that takes tile after tile where there is such an entry."""
    tile = entry(device, persistent=False, form="loop", pools=True)
    for persistent in {False, tile.arch >= 90}:
        with tiles.forced(replace(tile, split=1, persistent=persistent)):
            check_forward(device)


@pytest.mark.sanitize("conv3x3_split_kernel", "conv3x3_join_kernel")
def test_fprop_of_a_split_sum(device: torch.device) -> None:
    with tiles.forced(replace(entry(device, persistent=False, form="loop", pools=True), split=2)):
        check_forward(device)


@pytest.mark.sanitize("conv3x3_gluon_kernel")
def test_fprop_in_gluon(device: torch.device) -> None:
    with tiles.forced(entry(device, form="gluon")):
        check_forward(device)


@pytest.mark.sanitize("to_flat_kernel", "conv3x3_flat_kernel")
def test_fprop_of_flat_maps(device: torch.device) -> None:
    """A flat and a plain result; channels that do not fill 16 bytes lie between."""
    x, w, b = layer(device)
    second, _ = weights(C_IN, C_OUT, torch.float16, device, seed=7)
    y = ops.conv3x3_flat(x, [(w, b, True), (second, None, False)])
    x, w, b, second = (t.cpu() for t in (x, w, b, second))
    theirs, _ = EAGER.conv3x3(x, w, b, True, False, False)
    theirs, _ = EAGER.conv3x3(theirs, second, None, False, False, False)
    oracle = reference.conv3x3(x.double(), w.double(), b.double(), True)
    oracle = reference.conv3x3(oracle, second.double(), None, False)
    assert_close("y", y.cpu(), theirs, oracle, 9 * (C_IN + C_OUT))


@pytest.mark.sanitize("first_fprop_kernel")
def test_first(device: torch.device) -> None:
    check_forward(device, 3)


def check_gradients(
    device: torch.device, c_in: int, c_out: int, needs: tuple[bool, bool, bool]
) -> None:
    for pool in (False, True):
        x = maps((N, c_in, H, W), torch.float16, device, seed=1)
        w, b = weights(c_out, c_in, torch.float16, device, seed=1)
        there = [a.cpu() for a in (x, w, b)]
        y, codes = EAGER.conv3x3(*there, True, pool, pool)
        grad = maps(tuple(y.shape), torch.float16, CPU, seed=2)
        how = (True, pool)
        sent = [None if t is None else t.to(device) for t in (grad, y, codes)]
        ours = ops.conv3x3_backward(sent[0], x, w, sent[1], sent[2], needs)
        theirs = EAGER.conv3x3_backward(grad, *there[:2], y, codes, *how, needs)
        wide = (grad.double(), *(a.double() for a in there[:2]), y.double())
        oracle = EAGER.conv3x3_backward(*wide, codes, *how, needs)
        terms = (9 * c_out, N * H * W, N * H * W)
        for name, a, c, d, k in zip(("dx", "dw", "db"), ours, theirs, oracle, terms, strict=True):
            assert a is None or c is not None
            if c is not None:
                assert a is not None, name
                assert_close(name, a.cpu(), c, d, k)


@pytest.mark.sanitize(
    "conv3x3_wgrad_kernel", "conv3x3_wgrad_sum_kernel", "pool_backward_kernel",
    "relu_backward_kernel", "column_sum_kernel",
)  # fmt: skip
def test_gradients(device: torch.device) -> None:
    check_gradients(device, C_IN, C_OUT, (True, True, True))


@pytest.mark.sanitize("first_wgrad_kernel", "first_sum_kernel")
def test_gradients_of_the_first_layer(device: torch.device) -> None:
    check_gradients(device, 3, 24, (False, True, True))


@pytest.mark.sanitize("conv3x3_dgrad_kernel", "conv3x3_dgrad_sum_kernel")
def test_a_link_of_a_chain(device: torch.device) -> None:
    """The layer below has an odd map, whose last row and column a pool drops."""
    for pool in (False, True):
        size = (2 * H + 1, 2 * W + 1) if pool else (H, W)
        x = maps((N, C_IN, *size), torch.float16, CPU, seed=4).relu()
        x, codes = EAGER.maxpool2x2(x, True) if pool else (x, None)
        w, _ = weights(C_OUT, C_IN, torch.float16, CPU, seed=4)
        dz = maps((N, C_OUT, H, W), torch.float16, CPU, seed=5)
        sent = [None if t is None else t.to(device) for t in (dz, x, w, codes)]
        ours = ops.conv3x3_chain_step(*sent, *size, (False, True))
        theirs = EAGER.conv3x3_chain_step(dz, x, w, codes, size, (False, True))
        oracle = EAGER.conv3x3_chain_step(
            dz.double(), x.double(), w.double(), codes, size, (False, True)
        )
        for name, i, k in (("dz below", 0, 9 * C_OUT), ("db", 2, N * H * W + 9 * C_OUT)):
            mine = ours[i]
            assert mine is not None
            assert_close(name, mine.cpu(), theirs[i], oracle[i], k)


@pytest.mark.sanitize("linear_split_kernel", "linear_join_kernel")
def test_linear(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(6)
    x, w, b = (torch.randn(s, generator=generator).half() for s in ((3, 296), (70, 296), (70,)))
    y = ops.linear(x.to(device), w.to(device), b.to(device), True)
    oracle = (x.double() @ w.double().t() + b.double()).relu()
    assert_close("y", y.cpu(), Backend().gemm(x, w, b, True), oracle, 296)


@pytest.mark.sanitize("maxpool2x2_kernel", "pool_backward_kernel")
def test_maxpool(device: torch.device) -> None:
    x = maps((N, C_OUT, H, W), torch.float16, device, seed=3)
    y, codes = ops.maxpool2x2(x, True)
    expected, expected_codes = EAGER.maxpool2x2(x.cpu(), True)
    assert torch.equal(y.cpu(), expected)
    assert codes is not None
    assert expected_codes is not None
    assert torch.equal(codes.cpu(), expected_codes)
    dx = ops.maxpool2x2_backward(y, codes, H, W)
    assert torch.equal(dx.cpu(), EAGER.maxpool2x2_backward(expected, expected_codes, H, W))


def test_every_kernel_has_a_case() -> None:
    """Each jitted function named ``..._kernel`` is named by a marker in this folder."""
    compiled = {
        node.name
        for path in KERNELS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        and node.name.endswith("_kernel")
        and any("jit" in ast.unparse(d) for d in node.decorator_list)
    }
    named = {
        argument.value
        for path in Path(__file__).parent.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.sanitize"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    assert compiled
    assert compiled == named, "a kernel without a case, or a case of no kernel"
