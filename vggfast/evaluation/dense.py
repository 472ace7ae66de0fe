"""Dense application: the FC layers as convolutions over a whole image (section 3.2).

The last map of an H x W image is (H // 32) x (W // 32). The first FC layer, built for a window of
k = crop / 32 rows and columns of it, is a k x k convolution without padding there, and the other
two are 1 x 1 convolutions. So the FC layers are applied to each of the (H // 32 - k + 1) x
(W // 32 - k + 1) windows with the network's own parameters, and a crop-sized image has one window.

The windows are written out as rows of a matrix, and the network's classifier runs on it: one GEMM
a layer. The same convolution by torch's library packs 411 MB of weights in each call; measured in
docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vggfast.configs import DOWNSAMPLING
from vggfast.errors import InputError
from vggfast.models.vgg import VGG

# Of windows written out at a time: a row of a 7 x 7 window takes 100 KB in float32.
WINDOW_BYTES = 128 << 20


def class_maps(model: VGG, x: Tensor) -> Tensor:
    """Class scores, before the softmax, at every place of images x.

    Args:
        model: a network built by :func:`vggfast.vgg`, in eval mode (else dropout is applied).
        x: images (N, 3, H, W), normalised, H, W >= the crop the network was built for; dtype and
            device of its parameters.

    Returns:
        (N, classes, H // 32 - k + 1, W // 32 - k + 1), k = crop / 32.

    Raises:
        InputError: an image smaller than the crop, or no image.
    """
    return apply_densely(model, x, model.classifier)


def apply_densely(model: VGG, x: Tensor, head: Callable[[Tensor], Tensor]) -> Tensor:
    """:func:`class_maps` with ``head`` in the place of the classifier.

    ``head`` takes rows (R, 512 k k), one a window, and returns (R, F): ``model.classifier[:5]``
    gives the activations before the last FC layer. The result is (N, F, H', W').
    """
    if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < model.crop:
        raise InputError(
            f"x: got shape {tuple(x.shape)}, allowed is (N, 3, H, W) with H, W >= {model.crop}, "
            "the crop that the network was built for"
        )
    k = model.crop // DOWNSAMPLING
    maps = model.features(x)
    windows = maps.unfold(2, k, 1).unfold(3, k, 1).permute(0, 2, 3, 1, 4, 5)  # a view
    n, rows, columns, c = windows.shape[:4]
    most = max(1, WINDOW_BYTES // (columns * c * k * k * maps.element_size()))  # lines of windows
    images, lines = max(1, most // rows), min(rows, most)
    parts = [
        head(_rows(windows[i : i + images, r : r + lines]))
        for i in range(0, max(n, 1), images)
        for r in range(0, rows, lines)
    ]
    y = parts[0] if len(parts) == 1 else torch.cat(parts)
    return y.view(n, rows, columns, y.shape[1]).permute(0, 3, 1, 2)


def _rows(windows: Tensor) -> Tensor:
    """Windows (N, H', W', C, k, k) as rows in the order of the FC layer's weights."""
    return windows.reshape(math.prod(windows.shape[:3]), math.prod(windows.shape[3:]))
