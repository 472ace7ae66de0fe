"""pytest-benchmark: every distinct layer of VGG-E at 224x224, batch 1, ours and plain torch.

Each case's numerics are checked before it is timed.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from harness import cases, numerics
from harness.cases import Group
from harness.clock import Finish
from harness.options import Options
from pytest_benchmark.fixture import BenchmarkFixture

from vggfast import configs

GROUPS = cases.group(configs.layers("E"))


@cache
def failed_checks(g: Group, case: Options) -> list[numerics.Check]:
    """Checks of the layer's forward and gradients that did not pass; made once for both sides."""
    checks = numerics.check_small(g, case)
    checks += numerics.check_real(g, case, checks)
    return [c for c in checks if not c.passed]


@pytest.mark.parametrize("side", ["vggfast", "torch"])
@pytest.mark.parametrize("g", GROUPS, ids=lambda g: g.layer.name)
def test_fprop(
    benchmark: BenchmarkFixture, g: Group, side: str, case: Options, finish: Finish
) -> None:
    assert failed_checks(g, case) == []
    layer = g.layer
    args = cases.inputs(layer, 1, layer.h, layer.w, case.dtype, case.device, seed=1)
    function = cases.ours(layer, None) if side == "vggfast" else cases.plain(layer)
    benchmark.group = layer.name
    benchmark.extra_info.update(gflop=layer.flop / 1e9, dtype=case.dtype_name)
    with torch.no_grad():
        benchmark(finish(lambda: function(*args)))


@pytest.mark.parametrize("side", ["vggfast", "torch"])
@pytest.mark.parametrize("g", GROUPS, ids=lambda g: g.layer.name)
def test_backward(
    benchmark: BenchmarkFixture, g: Group, side: str, case: Options, finish: Finish
) -> None:
    """dx, dw and db together; the first layer's dx too, which a network does not need."""
    assert failed_checks(g, case) == []
    layer = g.layer
    args = cases.inputs(layer, 1, layer.h, layer.w, case.dtype, case.device, seed=1)
    leaves = [a.requires_grad_() for a in args]
    function = cases.ours(layer, None) if side == "vggfast" else cases.plain(layer)
    y = function(*leaves)
    gradient = torch.randn_like(y)
    benchmark.group = f"{layer.name} backward"
    benchmark.extra_info.update(gflop=2 * layer.flop / 1e9, dtype=case.dtype_name)
    benchmark(finish(lambda: torch.autograd.grad(y, leaves, gradient, retain_graph=True)))
