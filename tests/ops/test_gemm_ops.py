"""conv1x1 and linear: results and gradients against float64."""

from __future__ import annotations

import pytest
import torch

from tests.tolerance import assert_close
from vggfast import ops, reference


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("op", "x_shape", "w_shape"),
    [
        ("conv1x1", (2, 5, 3, 7), (9, 5, 1, 1)),
        ("conv1x1", (1, 64, 14, 14), (32, 64, 1, 1)),
        ("conv1x1", (0, 4, 3, 3), (2, 4, 1, 1)),
        ("linear", (4, 100), (30, 100)),
        ("linear", (1, 7), (1, 7)),
        ("linear", (0, 7), (3, 7)),
    ],
)
def test_result_and_gradients(op, x_shape, w_shape, relu, bias, backend):
    args = [torch.randn(x_shape), torch.randn(w_shape)] + [torch.randn(w_shape[0])] * bias
    names = ("y", "dx", "dw", "db")

    def result(function, dtype, **kwargs):
        leaves = [a.to(dtype).requires_grad_() for a in args]
        y = function(*leaves, relu=relu, **kwargs)
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        return [y, *torch.autograd.grad(y, leaves, grad.to(dtype))]

    ours = result(getattr(ops, op), torch.float32, backend=backend)
    exact = result(getattr(reference, op), torch.float64)
    theirs = result(getattr(reference, op), torch.float32)
    for name, a, b, c in zip(names, ours, exact, theirs, strict=False):
        assert a.shape == b.shape
        assert_close(f"{name} of {op} {x_shape}", a, b, c)
