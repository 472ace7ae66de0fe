"""One small case a kernel, for compute-sanitizer (`make gpu STAGE=sanitize`) and every other run.

``@pytest.mark.sanitize(KERNEL, ...)`` names the kernels that a test launches. Sizes are odd, so
that boxes stick out of the maps on every side, and references are computed on the CPU, so that a
sanitizer watches few kernels of torch's.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton_cases import assert_close, maps, weights
from vggfast.kernels import ops

from vggfast import reference
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()
KERNELS = Path(ops.__file__).parent
N, C_IN, C_OUT, H, W = 2, 24, 20, 9, 7


def layer(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    x = maps((N, C_IN, H, W), torch.float16, device, seed=1)
    return x, *weights(C_OUT, C_IN, torch.float16, device, seed=1)


@pytest.mark.sanitize("conv3x3_fprop_kernel")
@pytest.mark.parametrize("pool", [False, True])
def test_fprop(pool: bool, device: torch.device) -> None:
    args = layer(device)
    y, argmax = ops.conv3x3(*args, True, pool, pool)
    there = [a.cpu() for a in args]
    theirs, _ = EAGER.conv3x3(*there, True, pool, False)
    oracle = reference.conv3x3(*(a.double() for a in there), True, pool)
    assert_close("y", y.cpu(), theirs, oracle, 9 * C_IN)
    assert (argmax is not None) == pool


@pytest.mark.sanitize(
    "conv3x3_fprop_kernel", "conv3x3_wgrad_kernel", "conv3x3_wgrad_sum_kernel",
    "pool_backward_kernel", "relu_backward_kernel", "column_sum_kernel",
)  # fmt: skip
@pytest.mark.parametrize("pool", [False, True])
def test_gradients(pool: bool, device: torch.device) -> None:
    x, w, b = layer(device)
    there = [a.cpu() for a in (x, w, b)]
    y, codes = EAGER.conv3x3(*there, True, pool, pool)
    grad = maps(tuple(y.shape), torch.float16, torch.device("cpu"), seed=2)
    every, how = (True, True, True), (True, pool)
    sent = [None if t is None else t.to(device) for t in (grad, y, codes)]
    ours = ops.conv3x3_backward(sent[0], x, w, sent[1], sent[2], every)
    theirs = EAGER.conv3x3_backward(grad, *there[:2], y, codes, *how, every)
    wide = (grad.double(), *(a.double() for a in there[:2]), y.double())
    oracle = EAGER.conv3x3_backward(*wide, codes, *how, every)
    for name, a, c, d, k in zip(
        ("dx", "dw", "db"), ours, theirs, oracle, (9 * C_OUT, N * H * W, N * H * W), strict=True
    ):
        assert a is not None
        assert_close(name, a.cpu(), c, d, k)


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
