"""A perceptual loss in plain torch, as its users write it: modules in a row, maps picked up on the
way, Gram matrices by a product."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vggfast.taps import Extractor
from vggfast.taps.normalize import Normalize

Weights = Mapping[str, float]


class PlainLoss(nn.Module):
    """The loss of ``vggfast.PerceptualLoss`` with criterion "mse", one image at a time.

    Args:
        extractor: whose layers, weights and normalisation are taken (copied).
        places: the number in ``features`` of each layer.
        content, style: weights of layers.
        dtype, layout: of the weights and of the maps.

    A ReLU is in place, as torchvision's are, but where what it would overwrite is wanted.
    """

    def __init__(
        self,
        extractor: Extractor,
        places: Mapping[str, int],
        content: Weights,
        style: Weights,
        dtype: torch.dtype,
        layout: torch.memory_format,
    ) -> None:
        super().__init__()
        self.names = {place: name for name, place in places.items()}
        children: list[nn.Module] = []
        for i, m in enumerate(extractor.features):
            is_relu = isinstance(m, nn.ReLU)
            children.append(
                nn.ReLU(inplace=i - 1 not in self.names) if is_relu else copy.deepcopy(m)
            )
        self.layers = nn.Sequential(*children).to(dtype=dtype).requires_grad_(False)
        self.layers.to(memory_format=layout)  # type: ignore[call-overload]
        given = extractor.normalize
        assert isinstance(given, Normalize), "the example's images are colours from 0 to 1"
        self.mean, self.std = given.mean.to(dtype), given.std.to(dtype)
        self.content, self.style, self.layout = dict(content), dict(style), layout
        self.targets: dict[str, Tensor] = {}

    @torch.no_grad()
    def set_targets(self, content: Tensor, style: Tensor | None) -> None:
        maps = self.maps(content)
        self.targets = {f"content/{name}": maps[name] for name in self.content}
        if style is not None:
            maps = self.maps(style)
        self.targets |= {f"style/{name}": self.gram(maps[name]) for name in self.style}

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        found = {}
        y = ((x - self.mean) / self.std).contiguous(memory_format=self.layout)
        for i, m in enumerate(self.layers):
            y = m(y)
            if i in self.names:
                found[self.names[i]] = y
        return found

    def gram(self, y: Tensor) -> Tensor:
        """Whichever form needs no copy of the map."""
        _, c, h, w = y.shape
        if self.layout is torch.channels_last:
            rows = y.permute(0, 2, 3, 1).reshape(h * w, c)
            return torch.mm(rows.t(), rows) / (c * h * w)
        rows = y.reshape(c, h * w)
        return torch.mm(rows, rows.t()) / (c * h * w)

    def forward(self, x: Tensor) -> Tensor:
        found = self.maps(x)
        total = x.new_zeros(())
        for name, weight in self.content.items():
            total = total + weight * F.mse_loss(found[name], self.targets[f"content/{name}"])
        for name, weight in self.style.items():
            wanted = self.targets[f"style/{name}"]
            total = total + weight * (self.gram(found[name]) - wanted).square().sum()
        return total
