"""lrn against the formula written out, for windows of any size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.tolerance import assert_close
from vggfast import ops, reference


@pytest.mark.parametrize("n", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("shape", [(2, 7, 3, 4), (1, 64, 5, 5), (1, 1, 2, 2), (0, 3, 2, 2)])
def test_result_and_gradient(n, shape):
    # A large alpha, so that the second term of the gradient matters.
    constants = {"n": n, "k": 2.0, "alpha": 0.3, "beta": 0.75}
    x = torch.randn(shape)
    grad = torch.randn(shape)

    def result(function, dtype):
        leaf = x.to(dtype).requires_grad_()
        y = function(leaf, **constants)
        return y, *torch.autograd.grad(y, leaf, grad.to(dtype))

    trio = [
        result(ops.lrn, torch.float32),
        result(reference.lrn, torch.float64),
        result(reference.lrn, torch.float32),
    ]
    for name, a, b, c in zip(("y", "dx"), *trio, strict=True):
        assert_close(f"{name} of lrn {shape}, n={n}", a, b, c)


def test_alpha_is_the_papers_not_torchs():
    x = torch.randn(2, 16, 4, 4)
    torch.testing.assert_close(
        ops.lrn(x), F.local_response_norm(x, 5, alpha=5 * 1e-4, beta=0.75, k=2.0)
    )


def test_low_precision_sums_in_float32():
    x = torch.full((1, 5, 1, 1), 300.0, dtype=torch.float16)  # squares overflow float16
    assert torch.isfinite(ops.lrn(x, alpha=1.0)).all()
