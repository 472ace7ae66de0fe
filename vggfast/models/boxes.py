"""A VGG whose last FC layer gives boxes: the paper's network for localisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.models.vgg import VGG

BOXES = ("scr", "pcr")
NUMBERS = 4  # of a box: centre x, y, width, height


class BoxRegressor(VGG):
    """Boxes for a crop: one that all classes share ("scr"), or one a class ("pcr").

    The outputs are (N, 4) or (N, 4 classes), class by class; :func:`of_class` takes the boxes of
    given classes out of them. The last FC layer starts from N(0, 0.01^2).

    Args:
        net: the configuration.
        boxes: "scr" (single-class regression) or "pcr" (per-class regression).
        classes: how many.
        options: as :func:`vggfast.vgg` takes them.

    Attributes:
        boxes, localised: the arguments ``boxes`` and ``classes``.

    Raises:
        InputError: an argument out of range.
    """

    def __init__(self, net: str, *, boxes: str, classes: int, **options: Any) -> None:
        if boxes not in BOXES:
            raise InputError(f"boxes: got {boxes!r}, allowed are {', '.join(BOXES)}")
        super().__init__(net, num_classes=NUMBERS * (classes if boxes == "pcr" else 1), **options)
        self.boxes, self.localised, self._frozen = boxes, classes, False
        nn.init.normal_(self.classifier[-1].weight, 0.0, 0.01)

    def freeze_features(self) -> None:
        """Train the FC layers alone: the convolutions run as in inference from now on."""
        self._frozen = True
        self.features.requires_grad_(False)
        self.features.eval()

    def train(self, mode: bool = True) -> BoxRegressor:
        super().train(mode)
        if self._frozen:
            self.features.eval()  # batch normalisation by the statistics it has
        return self

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, boxes={self.boxes}"


def of_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """The boxes of classes ``labels`` in a regressor's outputs.

    Args:
        outputs: (N, 4), which all classes share, or (N, 4 classes).
        labels: (N, K), int64: of each crop the classes wanted.

    Returns:
        (N, K, 4).
    """
    each = outputs.view(len(outputs), -1, NUMBERS)
    if each.shape[1] == 1:
        return each.expand(-1, labels.shape[1], -1)
    return torch.take_along_dim(each, labels[..., None], 1)
