"""What quantising costs: the logits of two networks on the same images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vggfast.errors import InputError


@dataclass(frozen=True)
class Cost:
    """``relative_error`` = ||q - y|| / ||y|| of all logits; ``top1_agreement``: the share of images
    whose largest logit is of the same class in both; ``images``: how many there were."""

    relative_error: float
    top1_agreement: float
    images: int


def compare(quantized: nn.Module, model: nn.Module, batches: Iterable[Tensor]) -> Cost:
    """Compare the logits of ``quantized`` with those of ``model``.

    Args:
        quantized, model: in eval mode; both return logits (N, classes).
        batches: images as both take them, one image or more.

    Raises:
        InputError: there is no image, or the results are not logits of one shape.
    """
    difference = norm = 0.0
    same = images = 0
    with torch.no_grad():
        for x in batches:
            q, y = (m(x).detach().double() for m in (quantized, model))
            if q.dim() != 2 or q.shape != y.shape:
                raise InputError(
                    f"quantized: got a result of shape {tuple(q.shape)}, allowed is (N, classes) "
                    f"as model's, {tuple(y.shape)}"
                )
            difference += (q - y).square().sum().item()
            norm += y.square().sum().item()
            same += int((q.argmax(1) == y.argmax(1)).sum())
            images += len(x)
    if images == 0:
        raise InputError("batches: got no image, allowed is 1 or more")
    error = (difference / norm) ** 0.5 if norm > 0 else (0.0 if difference == 0 else float("inf"))
    return Cost(error, same / images, images)
