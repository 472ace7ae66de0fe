"""cross_entropy of the cuda backend against float64, and its repetition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.cuda.conftest import DTYPES
from tests.tolerance import assert_close
from vggfast import ops


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (3, 10), (40, 33), (5, 1000)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_result_and_gradient(size, smoothing, dtype, device):
    x = (4 * torch.randn(size)).to(device, dtype)
    labels = torch.randint(0, size[1], size[:1]).to(device)

    def result(logits, loss):
        return loss, *torch.autograd.grad(3 * loss, logits)

    leaf = x.clone().requires_grad_()
    ours = result(leaf, ops.cross_entropy(leaf, labels, label_smoothing=smoothing, backend="cuda"))
    wide = x.double().requires_grad_()
    exact = result(wide, F.cross_entropy(wide, labels, label_smoothing=smoothing))
    leaf = x.clone().requires_grad_()
    theirs = result(
        leaf, ops.cross_entropy(leaf, labels, label_smoothing=smoothing, backend="eager")
    )
    assert ours[0].dtype == torch.float32
    assert ours[1].dtype == dtype
    for name, a, b, c in zip(("loss", "dlogits"), ours, exact, theirs, strict=True):
        assert_close(f"{name} {size}", a, b, c)


@pytest.mark.parametrize("label", [-100, -1, 6, 2**40])
def test_a_label_out_of_range_makes_its_row_nan(label, device):
    x = torch.randn(3, 6).to(device).requires_grad_()
    labels = torch.tensor([0, label, 5]).to(device)
    loss = ops.cross_entropy(x, labels, backend="cuda")
    (dx,) = torch.autograd.grad(loss, x)
    assert loss.isnan()
    assert dx.isnan().any(1).tolist() == [False, True, False]
    assert dx[1].isnan().all()


def test_large_logits_do_not_overflow(device):
    x = torch.tensor([[3e4, -3e4, 0.0], [60000.0, 60000.0, 60000.0]]).to(device, torch.float16)
    loss = ops.cross_entropy(x, torch.tensor([0, 2]).to(device), backend="cuda")
    torch.testing.assert_close(loss.item(), torch.tensor(3.0).log().item() / 2, rtol=1e-6, atol=0)


def test_a_scaled_loss_keeps_small_probabilities(device):
    """1e-6 / 512 is no float16, times 65536 it is."""
    x = torch.zeros(512, 2).to(device, torch.float16)
    x[:, 0] = 14
    leaf = x.requires_grad_()
    loss = ops.cross_entropy(leaf, torch.zeros(512, dtype=torch.long).to(device), backend="cuda")
    (dx,) = torch.autograd.grad(65536 * loss, leaf)
    want = 65536 / 512 / (1 + torch.tensor(14.0).exp())
    torch.testing.assert_close(dx[:, 1].float().mean().item(), want.item(), rtol=1e-3, atol=0)


def test_repeats(both_orders, device):
    x = torch.randn(70, 300).to(device).requires_grad_()
    labels = torch.randint(0, 300, (70,)).to(device)

    def call():
        loss = ops.cross_entropy(x, labels, label_smoothing=0.1, backend="cuda")
        return [loss, *torch.autograd.grad(loss, x)]

    both_orders(call)
