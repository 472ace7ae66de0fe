"""Ops on torch's own elementwise kernels, for backends without kernels of their own for them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The struct Crop of csrc/common/crop.h.
CROP = np.dtype(
    [
        ("offset", np.int64),
        *((name, np.int32) for name in ("stride", "height", "width", "y", "x", "flip")),
        ("shift", np.float32, 3),
        ("unused", np.int32),
    ]
)


def _window_sum(t: Tensor, below: int, above: int) -> Tensor:
    """Sum of t (N, C, H, W) over channels c - below ... c + above; outside counts as zero."""
    c = t.shape[1]
    padded = F.pad(t, (0, 0, 0, 0, below, above))
    total = padded[:, :c].clone()
    for i in range(1, below + above + 1):
        total += padded[:, i : i + c]
    return total


def _scale(a: Tensor, n: int, k: float, alpha: float) -> Tensor:
    return k + alpha * _window_sum(a * a, n // 2, (n - 1) // 2)


def accurate(x: Tensor) -> Tensor:
    """x in float32 at least."""
    return x if x.dtype is torch.float64 else x.float()


def lrn(x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """y of ``ops.lrn``, in float32 at least."""
    a = accurate(x)
    return a * _scale(a, n, k, alpha).pow_(-beta)


def lrn_backward(grad: Tensor, x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """dx of ``ops.lrn``, in float32 at least."""
    a, g = accurate(x), accurate(grad)
    s = _scale(a, n, k, alpha)
    power = s.pow(-beta)
    # The channels whose window holds c: the window mirrored.
    spread = _window_sum(g * a * power / s, (n - 1) // 2, n // 2)
    return g * power - 2 * alpha * beta * a * spread


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The mean loss () and, for backward, each row's largest logit and log of the sum of
    exp(x - largest), (N, 2); float32 at least."""
    x = accurate(logits)
    classes = x.shape[1]
    top = x.amax(1, keepdim=True)
    kept = torch.cat([top, (x - top).exp().sum(1, keepdim=True).log()], 1)
    log_softmax = _log_softmax(x, kept)
    allowed = (labels >= 0) & (labels < classes)
    at_label = log_softmax.gather(1, labels.clamp(0, classes - 1).unsqueeze(1)).squeeze(1)
    losses = (smoothing - 1) * at_label
    if smoothing > 0:
        losses = losses - smoothing * log_softmax.mean(1)
    return torch.where(allowed, losses, torch.nan).mean(), kept


def cross_entropy_backward(
    grad: Tensor, logits: Tensor, labels: Tensor, kept: Tensor, smoothing: float
) -> Tensor:
    """The logits' gradient from that of the mean, ``grad`` (), in the dtype of the logits."""
    x = accurate(logits)
    rows, classes = x.shape
    allowed = ((labels >= 0) & (labels < classes)).unsqueeze(1)
    probability = _log_softmax(x, torch.where(allowed, kept, torch.nan)).exp()
    is_label = torch.arange(classes, device=x.device) == labels.unsqueeze(1)
    wanted = smoothing / classes + (1 - smoothing) * is_label
    return ((probability - wanted) * (grad / rows)).to(logits.dtype)


def _log_softmax(x: Tensor, kept: Tensor) -> Tensor:
    return (x - kept[:, :1]) - kept[:, 1:]


def crop_images(
    images: Tensor,
    crops: Tensor,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Tensor:
    """Crops (N, 3, rows, columns) in float32, zero outside of their images."""
    table, flat = crops.cpu().numpy().view(CROP)[:, 0], images.reshape(-1)
    out = torch.zeros((len(table), *size, 3), device=images.device)
    colours = torch.tensor([mean, std], device=images.device)
    for crop, to in zip(table, out, strict=True):
        h, w, y, x = (int(crop[name]) for name in ("height", "width", "y", "x"))
        image = flat.as_strided((h, w, 3), (int(crop["stride"]), 3, 1), int(crop["offset"]))
        top, left, bottom, right = max(y, 0), max(x, 0), min(y + size[0], h), min(x + size[1], w)
        if top >= bottom or left >= right:
            continue
        shift = torch.from_numpy(crop["shift"].copy()).to(images.device)
        inside = (image[top:bottom, left:right] - colours[0] + shift) / colours[1]
        to[top - y : bottom - y, left - x : right - x] = inside
        if crop["flip"]:
            to.copy_(to.flip(1))
    return out.permute(0, 3, 1, 2)
