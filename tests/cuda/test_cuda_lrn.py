"""lrn of the cuda backend against float64."""

from __future__ import annotations

import pytest
import torch

from tests.cuda.conftest import DTYPES
from tests.tolerance import assert_close
from vggfast import ops, reference


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "beta"), [(1, 0.75), (2, 0.75), (5, 0.75), (5, 0.4), (8, 0.4)])
@pytest.mark.parametrize("shape", [(2, 16, 3, 5), (1, 8, 2, 2), (1, 7, 3, 3), (1, 64, 5, 4),
                                   (0, 8, 2, 2), (1, 1, 2, 3)], ids=str)  # fmt: skip
def test_result_and_gradient(shape, n, beta, dtype, device):
    # A large alpha, so that the second term of the gradient matters.
    constants = {"n": n, "k": 2.0, "alpha": 0.3, "beta": beta}
    x = torch.randn(shape).to(device, dtype)
    grad = torch.randn(shape).to(device, dtype)

    def result(function, kind, **more):
        leaf = x.to(kind).requires_grad_()
        y = function(leaf, **constants, **more)
        return y, *torch.autograd.grad(y, leaf, grad.to(kind))

    trio = [
        result(ops.lrn, dtype, backend="cuda"),
        result(reference.lrn, torch.float64),
        result(ops.lrn, dtype, backend="eager"),
    ]
    for name, a, b, c in zip(("y", "dx"), *trio, strict=True):
        assert_close(f"{name} of lrn {shape}, n={n}", a, b, c)


def test_nan_stays_in_its_window(device):
    x = torch.randn(1, 32, 1, 2).to(device)
    x[0, 10, 0, 0] = float("nan")
    y = ops.lrn(x, backend="cuda")
    assert y.isnan().nonzero()[:, 1].tolist() == [8, 9, 10, 11, 12]
    assert not y[..., 1].isnan().any()


def test_a_zero_k_makes_no_nan_at_the_edge(device):
    """Outside of the map the window's sum is 0, whose power is infinite."""
    x = torch.randn(1, 8, 2, 2).to(device).requires_grad_()
    (dx,) = torch.autograd.grad(ops.lrn(x, k=0.0, alpha=1.0, backend="cuda").sum(), x)
    assert torch.isfinite(dx).all()
