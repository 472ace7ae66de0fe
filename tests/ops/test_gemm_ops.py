"""conv1x1 and linear: results and gradients against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
        ("linear", (3, 40000), (5, 40000)),  # sums of several chunks
        ("linear", (13, 64), (33, 64)),  # rows on cache lines
        ("linear", (13, 65), (33, 65)),
        ("linear", (17, 1), (2, 1)),
        ("linear", (64, 100), (10, 100)),
        ("linear", (65, 100), (10, 100)),
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


@given(m=st.integers(1, 20), k=st.integers(1, 70), o=st.integers(1, 20), seed=st.integers(0, 9))
@settings(max_examples=60)
def test_linear_of_any_size(m, k, o, seed):
    generator = torch.Generator().manual_seed(seed)
    x, w, b = (torch.randn(s, generator=generator) for s in ((m, k), (o, k), (o,)))
    leaves = [t.requires_grad_() for t in (x, w, b)]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    y = ops.linear(*leaves, backend="cpu")
    exact = reference.linear(*wide)
    grad = torch.randn((m, o), generator=generator)
    got = (y, *torch.autograd.grad(y, leaves, grad))
    want = (exact, *torch.autograd.grad(exact, wide, grad.double()))
    for ours, right in zip(got, want, strict=True):
        torch.testing.assert_close(ours.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trained", ["x", "w", "b"])
def test_linear_with_one_gradient(trained):
    leaves = {"x": torch.randn(3, 50), "w": torch.randn(7, 50), "b": torch.randn(7)}
    leaves[trained].requires_grad_()
    grads = []
    for backend in ("cpu", "eager"):
        y = ops.linear(*leaves.values(), relu=True, backend=backend)
        grads.append(torch.autograd.grad(y.sum(), leaves[trained])[0])
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 47, 50])
def test_linear_passes_what_is_not_finite_on(value, where):
    x, w = torch.randn(9, 51), torch.randn(8, 51)
    x[4, where] = value
    ours = ops.linear(x, w, relu=True, backend="cpu")
    theirs = ops.linear(x, w, relu=True, backend="eager")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("backend", ["eager", "cpu"])
def test_linear_of_no_outputs_or_no_inputs(backend):
    assert ops.linear(torch.randn(3, 4), torch.randn(0, 4), backend=backend).shape == (3, 0)
    b = torch.randn(2)
    y = ops.linear(torch.randn(3, 0), torch.randn(2, 0), b, backend=backend)
    assert torch.equal(y, b.expand(3, 2))
