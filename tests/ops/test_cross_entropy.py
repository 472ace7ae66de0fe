"""cross_entropy on torch's kernels: the result of torch's function, and what differs on purpose."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vggfast import InputError, ops


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("size", [(1, 1), (7, 12)], ids=str)
def test_as_torch(size, smoothing):
    x = torch.randn(size, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, size[1], size[:1])
    ours = ops.cross_entropy(x, labels, label_smoothing=smoothing)
    theirs = F.cross_entropy(x, labels, label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(5 * loss, x)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_16_bit_logits_give_a_float32_loss():
    x = torch.randn(4, 6).bfloat16().requires_grad_()
    loss = ops.cross_entropy(x, torch.arange(4))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(x.float(), torch.arange(4)))
    assert torch.autograd.grad(loss, x)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_a_label_out_of_range_makes_its_row_nan(label):
    x = torch.randn(3, 5).requires_grad_()
    loss = ops.cross_entropy(x, torch.tensor([0, label, 4]))
    (dx,) = torch.autograd.grad(loss, x)
    assert loss.isnan()
    assert dx.isnan().any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((torch.randn(3), torch.arange(3)), r"^logits:.*\(N, K\)"),
        ((torch.randn(0, 3), torch.arange(0)), r"^logits:.*N, K >= 1"),
        ((torch.randn(3, 4), torch.arange(3).int()), r"^labels: got dtype torch.int32"),
        ((torch.randn(3, 4), torch.arange(2)), r"^labels: got shape \(2,\)"),
        ((torch.randn(3, 4), torch.arange(3).to("meta")), r"^labels: got device meta.*as logits"),
    ],
)
def test_bad_input(arguments, words):
    with pytest.raises(InputError, match=words):
        ops.cross_entropy(*arguments)


def test_bad_smoothing():
    with pytest.raises(InputError, match=r"^label_smoothing: got 1.5"):
        ops.cross_entropy(torch.randn(1, 2), torch.zeros(1).long(), label_smoothing=1.5)
