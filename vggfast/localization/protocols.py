"""The paper's two ways to find boxes in images: of a given class, and of the likeliest classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vggfast.data.colour import Colours, normalise
from vggfast.errors import InputError
from vggfast.evaluation.crops import centre_corner
from vggfast.evaluation.dense import class_maps
from vggfast.localization.boxes import clip, decode, rescale
from vggfast.localization.dense import dense_boxes
from vggfast.localization.merging import best_boxes, merge
from vggfast.models.boxes import BoxRegressor, of_class
from vggfast.weights import Weights

MOST_BOXES = 4096  # of a class and image; merging holds a few tables of all their pairs


@dataclass(frozen=True)
class Found:
    """The K likeliest classes of N images of one size, the likeliest first, with a box each.

    Attributes:
        classes: (N, K), int64.
        probabilities: (N, K), float64, of the classes.
        boxes: (N, K, 4), float64, in pixels of the images as they are, cut off at their borders;
            NaN where a network gave an image anything that is not finite.
        scores: (N, K), float64, of the merged boxes.
    """

    classes: Tensor
    probabilities: Tensor
    boxes: Tensor
    scores: Tensor


def central_boxes(
    regressor: Weights,
    pixels: Tensor,
    size: tuple[int, int],
    labels: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The box of a given class, from the crop in the middle of each image.

    Args:
        regressor: in eval mode.
        pixels: images (N, H, W, 3), uint8, on the network's device.
        size: (width, height) of the images before they were rescaled.
        labels: (N,), int64, the classes.
        dtype: of the network.

    Returns:
        (N, 4), float64, on the CPU, in pixels of the images as they are, cut off at their borders.
    """
    height, width = pixels.shape[1:3]
    side = regressor.crop
    top, left = centre_corner(height, width, side)
    crops = pixels[:, top : top + side, left : left + side].contiguous()
    outputs = regressor.model(_input(regressor, crops, dtype)).double()
    numbers = of_class(outputs, labels[:, None])[:, 0]
    boxes = decode(numbers, numbers.new_tensor([left, top]), side)
    return clip(rescale(boxes, (width, height), size), size).cpu()


def likeliest_boxes(
    regressors: Sequence[Weights],
    classifiers: Sequence[Weights],
    pixels: Sequence[Tensor],
    size: tuple[int, int],
    *,
    top: int,
    threshold: float,
    flips: bool,
    dtype: torch.dtype = torch.float32,
) -> Found:
    """The likeliest classes of images, and a box of each, by all networks at all scales.

    The classes are those with the largest posterior: the mean over scales and classifiers of
    dense evaluation's (and, with ``flips``, of the mirror images'). Every place at every scale has
    a box by each regressor, whose score for a class is the classifiers' mean softmax at that place.
    The boxes of a class are merged over places, scales and regressors (merging.py).

    Args:
        regressors, classifiers: of the same crop, in eval mode on one device.
        pixels: of each scale the images (N, H, W, 3), uint8, on that device.
        size: (width, height) of the images before they were rescaled.
        top: K; at most the number of classes.
        threshold: t of merging.
        flips: use mirror images too, for the classes.
        dtype: of the networks.

    Raises:
        InputError: more boxes of a class than merging has memory for.
    """
    posterior, at_places = _classify(classifiers, pixels, flips, dtype)
    probabilities, classes = posterior.topk(top)
    shared = all(r.model.boxes == "scr" for r in regressors)  # the boxes of one class are all's
    wanted = classes[:, :1] if shared else classes
    count = len(regressors) * sum(places.shape[2] for places in at_places)
    if count > MOST_BOXES:
        raise InputError(
            f"scales: an image of {size[0]} x {size[1]} has {count} boxes of a class at all scales "
            f"and by all networks, allowed are up to {MOST_BOXES}: smaller or fewer scales"
        )
    boxes, scores = [], []
    for images, places in zip(pixels, at_places, strict=True):
        own = torch.take_along_dim(places, classes[..., None], 1)  # (N, K, places)
        for regressor in regressors:
            model = regressor.model
            assert isinstance(model, BoxRegressor)
            found = dense_boxes(model, _input(regressor, images, dtype), wanted)
            boxes.append(rescale(found, (images.shape[2], images.shape[1]), size))
            scores.append(own)
    union = torch.cat(boxes, 2).double().cpu().numpy()
    summed = torch.cat(scores, 2).double().cpu().numpy()
    # Merging that met a NaN would stop early, and what is left need not show it.
    finite = np.isfinite(union).all((1, 2, 3)) & np.isfinite(summed).all((1, 2))
    union[~finite] = 0
    best, score = _merged(union, summed, threshold, shared)
    best[~finite] = np.nan
    return Found(
        classes.cpu(),
        probabilities.cpu(),
        clip(torch.from_numpy(best), size),
        torch.from_numpy(score),
    )


def _classify(
    classifiers: Sequence[Weights], pixels: Sequence[Tensor], flips: bool, dtype: torch.dtype
) -> tuple[Tensor, list[Tensor]]:
    """Posteriors (N, classes), float64, and of each scale softmaxes (N, classes, places)."""
    posterior: Tensor | None = None
    at_places: list[Tensor] = []
    count = len(pixels) * len(classifiers)
    for images in pixels:
        n = len(images)
        places: Tensor | None = None
        for classifier in classifiers:
            x = _input(classifier, images, dtype)
            maps = class_maps(classifier.model, torch.cat([x, x.flip(-1)]) if flips else x).float()
            dense = maps.mean((2, 3)).softmax(1).double().view(-1, n, maps.shape[1]).mean(0) / count
            posterior = dense if posterior is None else posterior + dense
            own = maps[:n].flatten(2).softmax(1) / len(classifiers)
            places = own if places is None else places + own
        assert places is not None
        at_places.append(places)
    assert posterior is not None
    return posterior, at_places


def _merged(
    boxes: np.ndarray, scores: np.ndarray, threshold: float, shared: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Best boxes (N, K, 4) and their scores (N, K), of boxes (N, K or 1, B, 4), (N, K, B)."""
    n, k, b = scores.shape
    merged, owner = merge(boxes.reshape(-1, b, 4), threshold)
    if shared:
        return best_boxes(merged, owner, scores)
    best, score = best_boxes(merged, owner, scores.reshape(-1, b))
    return best.reshape(n, k, 4), score.reshape(n, k)


def _input(weights: Weights, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """(pixel - mean) / std, as the network was trained on them."""
    return normalise(pixels, None, None, Colours(weights.mean, weights.std)).to(dtype)
