"""The colours of a training set: mean, deviation, principal components; bytes to normalised floats.

The colour shift is that of Krizhevsky et al. 2012 (section 4.1), which the paper's section 3.1
takes over: to every pixel of a training image the same sum over i of alpha_i lambda_i p_i is added,
with p_i and lambda_i the eigenvectors and eigenvalues of the covariance of the training set's RGB
values and alpha_i normal with standard deviation 0.1, drawn anew for each use of an image. Colours
count from 0 to 1 there, as in the published eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vggfast.backends import Call, select
from vggfast.errors import InputError
from vggfast.ops import crop_images

RGB_SHIFTS = ("none", "train", "imagenet")

# Of ILSVRC-2012's training set, colours from 0 to 1; rows are red, green and blue, a column is an
# eigenvector. Published with facebook/fb.resnet.torch (datasets/imagenet.lua).
IMAGENET_VALUES = (0.2175, 0.0188, 0.0045)
IMAGENET_VECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)

Basis = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Colours:
    """How a set's bytes are normalised, on a scale of 0 to 255 for red, green and blue.

    Attributes:
        mean, std: what is subtracted, and what is divided by.
        basis: (3, 3); a column is lambda_i p_i. None: no colour shift.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    basis: Basis | None = None

    def shifts(self, alphas: np.ndarray) -> Tensor | None:
        """(N, 3), float32: the colour shift that each row of ``alphas`` (N, 3) gives."""
        if self.basis is None:
            return None
        return torch.from_numpy((alphas @ np.array(self.basis).T).astype(np.float32))


class Moments:
    """Sums over pixels, from which the set's mean and covariance follow."""

    def __init__(self) -> None:
        self.count = 0
        self._sum, self._products = np.zeros(3), np.zeros((3, 3))

    def add(self, images: np.ndarray) -> None:
        """Take in images (..., 3) of bytes."""
        pixels = images.reshape(-1, 3).astype(np.float64)
        self.count += len(pixels)
        self._sum += pixels.sum(0)
        self._products += pixels.T @ pixels

    def colours(self, rgb_shift: str = "none") -> Colours:
        """Mean, deviation (1 for a channel of one value) and the basis of the shift."""
        mean = self._sum / self.count
        covariance = self._products / self.count - np.outer(mean, mean)
        std = np.sqrt(np.clip(np.diag(covariance), 0, None))
        std[std == 0] = 1
        return Colours(tuple(mean.tolist()), tuple(std.tolist()), basis(rgb_shift, covariance))


def basis(rgb_shift: str, covariance: np.ndarray) -> Basis | None:
    """The basis of the shift, from a covariance of colours from 0 to 255 or as published."""
    if rgb_shift == "none":
        return None
    if rgb_shift == "imagenet":
        values, vectors = np.array(IMAGENET_VALUES), np.array(IMAGENET_VECTORS)
    else:
        values, vectors = principal(covariance / 255**2)
    return tuple(map(tuple, (255 * vectors * values).tolist()))


def principal(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, largest first, and eigenvectors in columns.

    An eigenvector's sign means nothing; here its largest component is positive, so that the same
    set gives the same shifts on any machine.
    """
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.clip(values[::-1], 0, None), vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(len(values))]
    return values, vectors * np.where(largest < 0, -1.0, 1.0)


def check_rgb_shift(rgb_shift: str) -> None:
    """Raises InputError if ``rgb_shift`` is none of those there are."""
    if rgb_shift not in RGB_SHIFTS:
        raise InputError(f"rgb_shift: got {rgb_shift!r}, allowed are {', '.join(RGB_SHIFTS)}")


def normalise(
    images: Tensor, flips: Tensor | None, shifts: Tensor | None, colours: Colours
) -> Tensor:
    """(bytes - mean + shift) / std, mirrored where asked, on the device of ``images``.

    On a GPU one kernel where the backend in charge has one (``ops.crop_images``), else torch's
    operations on the whole batch. On a CPU NumPy's, image by image: torch's threads would take the
    cores from the workers that decode the next batch.

    Args:
        images: (N, H, W, 3), uint8.
        flips: (N,), bool, on the CPU, or None.
        shifts: (N, 3), float32, on the CPU, or None.
        colours: mean and deviation.

    Returns:
        (N, 3, H, W), float32, channels_last.
    """
    if images.device.type == "cpu":
        return by_image(images, flips, shifts, colours)
    backend = select(Call("crop_images", images.device.type, torch.float32))
    if "crop_images" not in backend.own_ops:
        return by_batch(images, flips, shifts, colours)
    n, h, w, _ = images.shape
    corners = torch.zeros((n, 2), dtype=torch.int64)
    return crop_images(
        images, corners, (h, w), colours.mean, colours.std, flips=flips, shifts=shifts
    )


def by_image(
    images: Tensor, flips: Tensor | None, shifts: Tensor | None, colours: Colours
) -> Tensor:
    """:func:`normalise` by NumPy, in the calling thread alone."""
    n, h, w, _ = images.shape
    out = np.empty((n, h, 3 * w), np.float32)
    # Of whole rows: an innermost loop over three colours would be slow.
    mean, std = (np.tile(np.array(v, np.float32), w) for v in (colours.mean, colours.std))
    for i, (image, x) in enumerate(zip(images.numpy(), out, strict=True)):
        if flips is not None and flips[i]:
            image = image[:, ::-1]
        np.subtract(image.reshape(h, 3 * w), mean, out=x)
        if shifts is not None:
            x += np.tile(shifts[i].numpy(), w)
        x /= std
    return torch.from_numpy(out).view(n, h, w, 3).permute(0, 3, 1, 2)


def by_batch(
    images: Tensor, flips: Tensor | None, shifts: Tensor | None, colours: Colours
) -> Tensor:
    """:func:`normalise` by torch."""
    n, h, w, _ = images.shape
    device = images.device
    if flips is not None:
        mirrored = flips.to(device, non_blocking=True)[:, None, None, None]
        images = torch.where(mirrored, images.flip(2), images)
    mean, std = torch.tensor([colours.mean, colours.std], device=device).repeat(1, w)
    x = images.reshape(n, h, 3 * w) - mean
    if shifts is not None:
        x += shifts.to(device, non_blocking=True).repeat(1, w)[:, None]
    return x.div_(std).view(n, h, w, 3).permute(0, 3, 1, 2)
