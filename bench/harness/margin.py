"""How clear the decisions (ReLU, pool) of a whole network are on given images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vggfast import reference
from vggfast.configs import CONFIGS
from vggfast.reference.decisions import distance, two_largest


def network_margin(net: str, state: dict[str, Tensor], x: Tensor, crop: int) -> float:
    """The smallest :func:`distance` of any decision in the network on x."""
    number, smallest, items = 0, float("inf"), CONFIGS[net]
    for i, item in enumerate(items):
        if item == "M":
            if items[i - 1] == "LRN":  # elsewhere the convolution before has counted the pool
                first, second = two_largest(x)
                gap = (first - second)[first > 0]  # of zeros alone, the ReLU stops the gradient
                smallest = min(smallest, (gap / x.square().mean().sqrt()).min().item())
            x, number = reference.maxpool2x2(x), number + 1
        elif item == "LRN":
            x, number = reference.lrn(x), number + 1
        else:
            w, b = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            z = F.conv2d(x, w, b, padding=w.shape[-1] // 2)
            pool = i + 1 < len(items) and items[i + 1] == "M"
            smallest = min(smallest, distance(z, pool).min().item())
            x, number = F.relu(z), number + 2
    x = F.adaptive_avg_pool2d(x, crop // 32).flatten(1)
    for i in (0, 3):
        z = F.linear(x, state[f"classifier.{i}.weight"], state[f"classifier.{i}.bias"])
        smallest = min(smallest, distance(z, False).min().item())
        x = F.relu(z)
    return smallest
