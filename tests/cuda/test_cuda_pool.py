"""maxpool2x2 of the cuda backend is torch's, bit for bit: values, ties, NaN and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.cuda.conftest import DTYPES
from vggfast import ops

# Groups of 16 bytes, channels one by one, odd maps, more work than a block has threads.
SHAPES = [(2, 8, 5, 7), (1, 64, 4, 6), (2, 3, 3, 9), (1, 13, 2, 2), (3, 4, 6, 5), (0, 8, 4, 4),
          (1, 80, 3, 12)]  # fmt: skip


def values(shape, dtype, kind, device):
    x = torch.randn(shape)
    if kind == "ties":
        x = x.round()
    elif kind == "nan":
        x[torch.rand(shape) < 0.2] = float("nan")
    return x.to(device, dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties", "nan"])
def test_as_torch(shape, kind, dtype, device):
    x = values(shape, dtype, kind, device).requires_grad_()
    y = ops.maxpool2x2(x, backend="cuda")
    want = F.max_pool2d(x, 2)
    torch.testing.assert_close(y, want, rtol=0, atol=0, equal_nan=True)
    grad = torch.randn(y.shape).to(device, dtype)
    (got,) = torch.autograd.grad(y, x, grad)
    (expected,) = torch.autograd.grad(want, x, grad)
    assert torch.equal(got, expected)
    assert torch.equal(ops.maxpool2x2(x.detach(), backend="cuda").isnan(), want.isnan())


def test_unaligned_memory(device):
    memory = torch.randn(1 + 2 * 8 * 4 * 4).to(device, torch.float16)
    x = memory[1:].view(2, 4, 4, 8).permute(0, 3, 1, 2)
    assert x.data_ptr() % 16 != 0
    assert torch.equal(ops.maxpool2x2(x, backend="cuda"), F.max_pool2d(x, 2))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_argmax_is_that_of_the_other_backends(dtype, device):
    x = values((2, 12, 5, 6), dtype, "ties", device)
    ours = torch.ops.vggfast.maxpool2x2(x, True, "cuda")[1]
    assert torch.equal(ours, torch.ops.vggfast.maxpool2x2(x, True, "eager")[1])


def test_repeats(both_orders, device):
    x = values((1, 16, 9, 8), torch.bfloat16, "ties", device)
    both_orders(lambda: list(torch.ops.vggfast.maxpool2x2(x, True, "cuda")))
