"""A whole VGG in plain torch, from a configuration and a state dict."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from vggfast.configs import CONFIGS, DOWNSAMPLING, check_net
from vggfast.reference import ops


def network(net: str, state_dict: Mapping[str, Tensor], x: Tensor, crop: int = 224) -> Tensor:
    """Logits (N, classes) of configuration ``net`` on x (N, 3, H, W), without dropout.

    ``state_dict`` has torchvision's names, without batch normalisation; its dtype and device are
    those of x. ``crop`` is the window the classifier was built for.
    """
    number = 0  # the index in torchvision's ``features``: a convolution and its ReLU take two
    for item in CONFIGS[check_net(net)]:
        if item == "M":
            x, number = ops.maxpool2x2(x), number + 1
        elif item == "LRN":
            x, number = ops.lrn(x), number + 1
        else:
            w, b = (state_dict[f"features.{number}.{kind}"] for kind in ("weight", "bias"))
            conv = ops.conv1x1 if w.shape[-1] == 1 else ops.conv3x3
            x, number = conv(x, w, b, relu=True), number + 2
    window = crop // DOWNSAMPLING
    x = F.adaptive_avg_pool2d(x, window).flatten(1)
    for i in (0, 3, 6):
        w, b = (state_dict[f"classifier.{i}.{kind}"] for kind in ("weight", "bias"))
        x = ops.linear(x, w, b, relu=i < 6)
    return x
