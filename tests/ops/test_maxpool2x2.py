"""maxpool2x2 agrees with torch bit for bit, gradients, ties and NaN included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vggfast import ops

SHAPES = [(1, 1, 2, 2), (2, 3, 5, 7), (3, 64, 8, 6), (1, 70, 3, 9), (0, 4, 4, 4)]


@pytest.mark.parametrize("backend", ["eager", "cpu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties", "nan"])
def test_as_torch(shape, kind, backend):
    x = torch.randn(shape)
    if kind == "ties":
        x = x.round()
    elif kind == "nan":
        x[torch.rand(shape) < 0.2] = float("nan")
    x.requires_grad_()
    y = ops.maxpool2x2(x, backend=backend)
    want = F.max_pool2d(x, 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
    grad = torch.randn(y.shape)
    (got,) = torch.autograd.grad(y, x, grad)
    (expected,) = torch.autograd.grad(want, x, grad)
    assert torch.equal(got, expected)


def test_keeps_two_bits_an_element():
    kept: list[torch.Tensor] = []
    x = torch.randn(2, 64, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        ops.maxpool2x2(x)
    assert sum(t.nbytes for t in kept) == 2 * 4 * 4 * 64 * 2 // 8
