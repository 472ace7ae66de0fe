"""Top-k error rates with a confidence interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from vggfast.errors import InputError

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Rate:
    """``errors`` of ``images``, as a fraction, with the 95 % interval [low, high] of Wilson 1927.

    The interval tells what the images sampled leave open. It never leaves [0, 1] and is not empty
    at an error of 0, as the normal approximation's is.
    """

    errors: int
    images: int
    value: float
    low: float
    high: float


def wilson(errors: int, images: int) -> Rate:
    """The rate errors / images and its interval.

    Raises:
        InputError: no image, or more errors than images.
    """
    if images < 1 or not 0 <= errors <= images:
        raise InputError(
            f"errors: got {errors} of {images} images, allowed are 0 to all of one or more"
        )
    p, z2 = errors / images, Z95**2
    centre = (p + z2 / (2 * images)) / (1 + z2 / images)
    half = math.sqrt(p * (1 - p) / images + z2 / (4 * images**2)) * Z95 / (1 + z2 / images)
    low = 0.0 if errors == 0 else centre - half  # exactly there, which rounding would miss
    high = 1.0 if errors == images else centre + half
    return Rate(errors, images, p, low, high)


def top_errors(posteriors: Tensor, labels: Tensor, k: int) -> int:
    """How many rows of posteriors (N, classes) have the label (N,) not among the k largest.

    Of classes that are equal the one with the lower number comes first.
    """
    own = posteriors.gather(1, labels[:, None])
    number = labels.new_tensor(range(posteriors.shape[1]))
    before = (posteriors > own) | ((posteriors == own) & (number < labels[:, None]))
    return int((before.sum(1) >= k).sum())
