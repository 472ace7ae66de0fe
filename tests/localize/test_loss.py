"""The Euclidean loss and the choice of a class's box against plain torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vggfast.localization.task import ENOUGH, Localization, euclidean
from vggfast.models.boxes import BoxRegressor, of_class


def targets(n: int, classes: int) -> torch.Tensor:
    return torch.cat([torch.randint(classes, (n, 1)).float(), torch.rand(n, 4)], 1)


@pytest.mark.parametrize("classes", [1, 5])
def test_loss_and_gradient(classes: int) -> None:
    y = targets(6, classes)
    x = torch.randn(6, 4 * classes, dtype=torch.float64, requires_grad=True)
    euclidean(x, y).backward()
    mine, x.grad = x.grad, None
    total = torch.zeros((), dtype=torch.float64)
    for row, target in zip(x, y, strict=True):
        start = 4 * int(target[0])
        total = total + nn.functional.mse_loss(
            row[start : start + 4], target[1:].double(), reduction="sum"
        )
    loss = total / 2
    loss.backward()
    torch.testing.assert_close(euclidean(x, y), loss)
    torch.testing.assert_close(mine, x.grad)
    assert mine is not None
    assert int((mine != 0).sum()) == 6 * 4  # other classes' boxes have no gradient


def test_shared_boxes_serve_any_class() -> None:
    outputs = torch.randn(3, 4)
    found = of_class(outputs, torch.tensor([[0, 7], [2, 2], [9, 1]]))
    assert found.shape == (3, 2, 4)
    assert torch.equal(found[:, 0], outputs)
    assert torch.equal(found[:, 1], outputs)


def test_boxes_of_each_class() -> None:
    outputs = torch.arange(24.0).view(2, 12)
    found = of_class(outputs, torch.tensor([[2, 0], [1, 1]]))
    assert found[0].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3]]
    assert found[1].tolist() == [[16, 17, 18, 19]] * 2


def test_figures_count_overlaps_above_a_half() -> None:
    task = Localization()
    y = torch.tensor([[0.0, 0, 0, 1, 1]]).repeat(3, 1)
    # Equal; moved by half its width (IoU 1/3); twice as wide (IoU exactly 1/2, not enough).
    outputs = torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 1, 1], [0, 0, 2, 1]])
    loss, right, overlap = task.figures(outputs, y).tolist()
    assert ENOUGH == 0.5
    assert (loss, right) == (0.125 + 0.5, 1)
    assert overlap == pytest.approx(1 + 1 / 3 + 1 / 2)
    assert int(task.hits(outputs, y)) == 1


def test_the_networks_outputs() -> None:
    shared, each = (BoxRegressor("A", boxes=b, classes=7, crop=32) for b in ("scr", "pcr"))
    x = torch.randn(2, 3, 32, 32)
    assert shared(x).shape == (2, 4)
    assert each(x).shape == (2, 28)
    assert "boxes=pcr" in repr(each)


def test_frozen_convolutions_stay_as_they_are() -> None:
    """Without gradients, and batch normalisation by the statistics it has."""
    model = BoxRegressor("A", boxes="scr", classes=2, crop=32, batch_norm=True, dropout=0.0)
    x = torch.randn(4, 3, 32, 32)
    expected = model.eval()(x)
    model.freeze_features()
    model.train()
    assert torch.equal(model(x), expected)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        model(x).sum().backward()
    assert all(len(shape) <= 2 for shape in kept)  # nothing of the convolutions is kept
    assert all(p.grad is None for p in model.features.parameters())
    assert all(p.grad is not None for p in model.classifier.parameters())
