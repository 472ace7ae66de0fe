"""Loss and accuracy of a model over a data set, or what another task measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggfast.engine.task import CLASSIFICATION, Task


@dataclass(frozen=True)
class Evaluation:
    """Means over images of the loss and of the task's two measures.

    Of a classification: cross-entropy, whose class came first, and among the first five.
    """

    loss: float
    accuracy: float
    top5: float
    images: int


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context that runs a float32 model in ``dtype``; float32 needs none."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    total: Callable[[list[float]], list[float]] = list,
    task: Task = CLASSIFICATION,
) -> Evaluation:
    """Evaluate ``model``, in eval mode, over batches of images (N, 3, H, W) and targets (N, ...).

    ``total`` sums figures over the processes of which each has a share of the images. The mode
    the model was in is restored. Without any image the figures are NaN.
    """
    place = torch.device(device)
    was_training = model.training
    model.eval()
    sums, images = torch.zeros(3, dtype=torch.float64, device=place), 0
    try:
        for x, y in batches:
            x, y = x.to(place, non_blocking=True), y.to(place, non_blocking=True)
            with autocast(place, dtype):
                logits = model(x)
            sums += task.figures(logits.float(), y)
            images += len(y)
    finally:
        model.train(was_training)
    *found, seen = total([*sums.tolist(), float(images)])
    if not seen:
        return Evaluation(float("nan"), float("nan"), float("nan"), 0)
    loss, first, five = (value / seen for value in found)
    return Evaluation(loss, first, five, int(seen))
