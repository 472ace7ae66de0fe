"""From activations to the vector that a linear classifier gets (the paper's appendix on transfer).

Per image, or box, and test scale Q: activations of the whole image, averaged over all places, then
over the image and its mirror image. What is stacked or averaged after that, and where the length is
made 1, is in :func:`combine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

COMBINE = ("average", "stack")


def mean_activations(maps: Callable[[Tensor], Tensor], x: Tensor, *, flips: bool = True) -> Tensor:
    """The mean of ``maps(x)`` over space, and over the images and their mirror images.

    Args:
        maps: from images (N, 3, H, W) to activations (N, F, H', W'), as
            :func:`vggfast.transfer.layers.layer` gives it.
        x: images, normalised.
        flips: use the mirror images too; one pass for both.

    Returns:
        (N, F), float32, or float64 where the activations are.
    """
    y = maps(torch.cat([x, x.flip(-1)]) if flips else x)
    means = (y if y.dtype == torch.float64 else y.float()).mean((2, 3))
    return means.view(2, len(x), means.shape[1]).mean(0) if flips else means


def combine(
    parts: Sequence[np.ndarray], how: str = "average", *, normalise: bool = True
) -> np.ndarray:
    """One descriptor of several networks, regions and scales.

    ``average``: the mean over scales of each network's and region's activations is one part.
    ``stack``: each scale is a part of its own. With ``normalise`` each part is divided by its L2
    norm, and the parts side by side by the root of their number: so a descriptor has length 1,
    whatever it is made of, and no part outweighs another as its network has larger activations.
    A part that is all zeros stays so.

    The paper normalises the descriptor after aggregation over places and scales, which for one
    network and ``average`` is this; that parts that are stacked are normalised each is our choice.

    Args:
        parts: for each network and region, in that order, (scales, N, F); F may differ.
        how: "average" or "stack".
        normalise: make lengths 1.

    Returns:
        (N, sum of the parts' F), float32.
    """
    columns: list[np.ndarray] = []
    for part in parts:
        columns += [part.mean(0, dtype=np.float64)] if how == "average" else list(part)
    return join(columns, normalise, unit if normalise else None)


def join(
    columns: Sequence[np.ndarray],
    normalised: bool = True,
    each: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Parts (N, F_i) side by side, float32; parts of length 1 give rows of length 1.

    ``each`` is applied to a part first. Parts are wide, in float64, one after the other: of a shard
    of many scales and networks all together would take a gigabyte.
    """
    whole = np.empty((len(columns[0]), sum(c.shape[1] for c in columns)), np.float32)
    start = 0
    for column in columns:
        wide = column.astype(np.float64)
        wide = wide if each is None else each(wide)
        end = start + wide.shape[1]
        whole[:, start:end] = wide / np.sqrt(len(columns)) if normalised else wide
        start = end
    return whole


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows (N, F) divided by their L2 norms; a row of zeros as it is."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)
