"""Softmax posteriors of images by each of the paper's protocols (section 3.2)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from vggfast.evaluation.crops import GRID, centre_corner, grid_corners
from vggfast.evaluation.dense import class_maps
from vggfast.models.vgg import VGG

PROTOCOLS = ("dense", "multicrop", "single")


def dense_posteriors(model: VGG, x: Tensor, *, flips: bool = True, batch: int = 32) -> Tensor:
    """Scores of all places averaged, softmax, mean over the images and their mirror images.

    Args:
        model: in eval mode.
        x: images (N, 3, H, W), normalised, H, W >= the network's crop.
        flips: use the mirror images too.
        batch: how many crops' worth of pixels the network sees at a time.

    Returns:
        Posteriors (N, classes), float32.
    """

    def scores(part: Tensor) -> Tensor:
        return class_maps(model, part).float().mean((2, 3))

    images = images_a_pass(x.shape[2], x.shape[3], model.crop, flips, batch)
    return torch.cat([_mean_with_mirror(scores, part, flips) for part in x.split(images)])


def multicrop_posteriors(
    model: VGG, x: Tensor, *, flips: bool = True, batch: int = 32, grid: int = GRID
) -> Tensor:
    """Softmax of each crop of a regular grid and of its mirror image, averaged: 50 crops.

    Arguments and result as for :func:`dense_posteriors`; ``grid`` x ``grid`` crops an image. Crops
    that coincide, in images hardly larger than the crop, are computed once and counted as often
    as they occur.
    """
    size, classes = model.crop, model.num_classes
    corners = Counter(grid_corners(x.shape[2], x.shape[3], size, grid))
    jobs = [(image, corner) for image in x for corner in corners]
    at_once = max(1, batch // (2 if flips else 1))
    parts = []
    for start in range(0, len(jobs), at_once):
        crops = torch.stack([_cut(*job, size) for job in jobs[start : start + at_once]])
        parts.append(_mean_with_mirror(model, crops, flips))
    counts = torch.tensor(list(corners.values()), dtype=torch.float32, device=x.device)
    posteriors = torch.cat(parts).view(len(x), len(corners), classes)
    return (posteriors * counts[:, None]).sum(1) / grid**2


def single_posteriors(model: VGG, x: Tensor, *, flips: bool = True, batch: int = 32) -> Tensor:
    """Softmax of the centre crop, averaged with its mirror image's.

    Arguments and result as for :func:`dense_posteriors`.
    """
    corner = centre_corner(x.shape[2], x.shape[3], model.crop)
    crops = x[..., corner[0] : corner[0] + model.crop, corner[1] : corner[1] + model.crop]
    parts = crops.split(max(1, batch // (2 if flips else 1)))
    return torch.cat([_mean_with_mirror(model, part, flips) for part in parts])


def images_a_pass(height: int, width: int, crop: int, flips: bool, batch: int) -> int:
    """How many images of this size hold no more pixels than ``batch`` crops, but one at least."""
    return max(1, batch * crop**2 // (height * width * (2 if flips else 1)))


POSTERIORS: dict[str, Callable[..., Tensor]] = {
    "dense": dense_posteriors,
    "multicrop": multicrop_posteriors,
    "single": single_posteriors,
}


def _mean_with_mirror(scores: Callable[[Tensor], Tensor], x: Tensor, flips: bool) -> Tensor:
    """softmax(scores(x)), averaged with that of the mirror images; one pass for both."""
    if not flips:
        return scores(x).float().softmax(1)
    both = scores(torch.cat([x, x.flip(-1)])).float().softmax(1)
    return both.view(2, len(x), -1).mean(0)


def _cut(image: Tensor, corner: tuple[int, int], size: int) -> Tensor:
    top, left = corner
    return image[:, top : top + size, left : left + size]
