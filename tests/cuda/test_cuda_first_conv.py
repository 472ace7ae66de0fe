"""conv3x3 of the cuda backend, the first layer's, against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.cuda.conftest import DTYPES
from tests.tolerance import assert_close
from vggfast import ops, reference

# Size of x, outputs, ReLU, bias: part segments, one row, all of 64 outputs and more, part groups.
CASES = [
    ((2, 3, 5, 19), 64, True, True),
    ((2, 3, 5, 19), 64, False, False),
    ((1, 3, 3, 33), 8, True, False),
    ((1, 1, 4, 6), 72, True, True),
    ((2, 2, 1, 16), 40, False, True),
    ((1, 3, 1, 1), 16, True, True),
    ((3, 3, 2, 48), 136, True, True),
]


def _case(size: tuple[int, ...], c_out: int, dtype: torch.dtype) -> list[Tensor]:
    x = torch.randn(size).contiguous(memory_format=torch.channels_last)
    w = torch.randn(c_out, size[1], 3, 3) / 3
    return [t.to(dtype) for t in (x, w, torch.randn(c_out))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "c_out", "relu", "bias"), CASES, ids=str)
def test_result_and_gradients(size, c_out, relu, bias, dtype, device):
    args = _case(size, c_out, dtype)[: 3 if bias else 2]
    z = reference.conv3x3(*(a.double() for a in args), *[None] * (3 - len(args)), False, False)
    grad = reference.clear_gradient(torch.randn(z.shape), z, False, relu)

    def result(kind, where, **how):
        leaves = [a.to(where, kind).requires_grad_() for a in args]
        if how:
            y = ops.conv3x3(*leaves, relu=relu, **how)
        else:
            y = reference.conv3x3(*leaves, *[None] * (3 - len(args)), relu, False)
        return [t.cpu() for t in (y, *torch.autograd.grad(y, leaves, grad.to(where, kind)))]

    ours = result(dtype, device, backend="cuda")
    exact, theirs = result(torch.float64, "cpu"), result(dtype, "cpu", backend="eager")
    for name, a, b, c in zip(("y", "dx", "dw", "db"), ours, exact, theirs, strict=False):
        assert a.dtype == dtype
        # Sums of float32 products, in another order than torch's.
        terms = 9 * size[1] if name == "y" else size[0] * size[2] * size[3]
        rounding = torch.finfo(torch.float32).eps * terms**0.5
        cancelled = grad.abs().sum((0, 2, 3)) if name == "db" else None
        assert_close(f"{name} of {size} to {c_out}", a, b, c, cancelled, rounding)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_with_pool(dtype, device):
    args = _case((2, 3, 7, 10), 24, dtype)

    def result(kind, where, backend):
        leaves = [a.to(where, kind).requires_grad_() for a in args]
        y = ops.conv3x3(*leaves, relu=True, pool=True, backend=backend)
        return [t.cpu() for t in (y, *torch.autograd.grad(y.square().sum(), leaves[1:]))]

    ours, exact = result(dtype, device, "cuda"), result(torch.float64, "cpu", "eager")
    theirs = result(dtype, "cpu", "eager")
    for name, a, b, c in zip(("y", "dw", "db"), ours, exact, theirs, strict=True):
        # Where two pixels of a window round to one value, the gradient may take either.
        assert_close(name, a, b, c, algorithm=0 if name == "y" else torch.finfo(dtype).eps * 4)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_reaches_its_neighbours_only(dtype, device):
    x, w, b = (t.to(device) for t in _case((1, 3, 6, 20), 8, dtype))
    x[0, 1, 2, 7] = float("nan")
    y = ops.conv3x3(x, w, b, relu=True, backend="cuda")
    there = torch.zeros(6, 20, dtype=torch.bool)
    there[1:4, 6:9] = True
    for channel in y[0].isnan().cpu():
        assert torch.equal(channel, there)
    x[0, 1, 2, 7] = 0
    w[3, 0, 1, 1] = float("nan")
    assert ops.conv3x3(x, w, b, backend="cuda").isnan().all((0, 2, 3)).tolist() == [
        i == 3 for i in range(8)
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_blocks_repeat(dtype, both_orders, device):
    """More segments than one block sums, so that blocks are joined."""
    x, w, b = (t.to(device).requires_grad_() for t in _case((2, 3, 40, 70), 8, dtype))
    grad = torch.randn(2, 8, 40, 70).to(device, dtype)

    def call():
        y = ops.conv3x3(x, w, b, relu=True, backend="cuda")
        return [y, *torch.autograd.grad(y, (w, b), grad)]

    both_orders(call)
    y, dw, db = (t.cpu() for t in call())
    wide = [t.detach().cpu().double().requires_grad_() for t in (x, w, b)]
    exact = ops.conv3x3(*wide, relu=True, backend="eager")
    gradients = torch.autograd.grad(exact, wide[1:], grad.cpu().double())
    for name, a, e in zip(("y", "dw", "db"), (y, dw, db), (exact, *gradients), strict=True):
        assert_close(name, a, e, e.to(dtype), algorithm=2e-6)


def test_frozen_weights(device):
    x, w, b = (t.to(device) for t in _case((1, 3, 4, 4), 8, torch.float32))
    b.requires_grad_()
    y = ops.conv3x3(x, w, b, relu=True, backend="cuda")
    (db,) = torch.autograd.grad(y.sum(), b)
    torch.testing.assert_close(db, (y > 0).float().sum((0, 2, 3)))
