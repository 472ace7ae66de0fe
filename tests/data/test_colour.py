"""Colours: moments and components against NumPy, the shift, and both paths of normalisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vggfast import ops
from vggfast.data.colour import (
    IMAGENET_VALUES,
    IMAGENET_VECTORS,
    Colours,
    Moments,
    basis,
    by_batch,
    normalise,
    principal,
)

COLOURS = Colours((120.5, 110.0, 99.25), (60.0, 55.5, 50.0))


def test_moments_are_those_of_all_pixels(pictures):
    moments = Moments()
    for picture in pictures.values():
        moments.add(picture)
    pixels = np.concatenate([p.reshape(-1, 3) for p in pictures.values()]).astype(float)
    colours = moments.colours("train")
    assert np.allclose(colours.mean, pixels.mean(0), rtol=1e-12)
    assert np.allclose(colours.std, pixels.std(0), rtol=1e-9)
    shift = np.array(colours.basis)
    # Krizhevsky's formula, with NumPy's eigenvectors of colours from 0 to 1.
    values, vectors = np.linalg.eigh(np.cov(pixels.T / 255, ddof=0))
    for i in range(3):
        want = vectors[:, 2 - i] * values[2 - i] * 255
        assert np.allclose(np.abs(shift[:, i]), np.abs(want), rtol=1e-6, atol=1e-9)
        assert shift[np.abs(shift[:, i]).argmax(), i] > 0


def test_components_of_the_published_covariance():
    vectors, values = np.array(IMAGENET_VECTORS), np.array(IMAGENET_VALUES)
    assert np.allclose(vectors.T @ vectors, np.eye(3), atol=2e-4)
    found, axes = principal(vectors @ np.diag(values) @ vectors.T)
    assert np.allclose(found, values, rtol=1e-3)
    assert np.allclose(np.abs(axes), np.abs(vectors), atol=2e-3)
    assert np.allclose(np.array(basis("imagenet", np.eye(3))), 255 * vectors * values)


def test_the_shift_is_the_formula():
    colours = Colours(basis=basis("imagenet", np.eye(3)))
    alphas = np.array([[0.1, -0.2, 0.05], [0, 0, 0]])
    want = sum(
        a * v * np.array(IMAGENET_VECTORS)[:, i] * 255
        for i, (a, v) in enumerate(zip(alphas[0], IMAGENET_VALUES, strict=True))
    )
    shifts = colours.shifts(alphas)
    assert shifts is not None
    assert np.allclose(shifts, [want, np.zeros(3)], rtol=1e-6)
    assert COLOURS.shifts(alphas) is None


def test_one_grey_value_is_not_divided_by_zero():
    moments = Moments()
    moments.add(np.full((4, 4, 3), 7, np.uint8))
    assert moments.colours() == Colours((7.0, 7.0, 7.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("how", [normalise, by_batch])
def test_normalisation_is_that_of_the_op_and_of_numpy(how, flipped, shifted):
    images = torch.randint(0, 256, (5, 6, 7, 3), dtype=torch.uint8)
    flips = torch.tensor([True, False, True, True, False]) if flipped else None
    shifts = torch.randn(5, 3) * 9 if shifted else None
    result = how(images, flips, shifts, COLOURS)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    corners = torch.zeros(5, 2, dtype=torch.int64)
    op = ops.crop_images(
        images, corners, (6, 7), COLOURS.mean, COLOURS.std, flips=flips, shifts=shifts
    )
    assert torch.equal(result, op)
    want = images.numpy().astype(float)
    if flips is not None:
        want = np.where(flips.numpy()[:, None, None, None], want[:, :, ::-1], want)
    add = 0 if shifts is None else shifts.numpy()[:, None, None]
    want = (want - COLOURS.mean + add) / COLOURS.std
    assert np.allclose(result.permute(0, 2, 3, 1), want, rtol=1e-5, atol=1e-5)


def test_no_image_is_an_empty_batch():
    none = torch.zeros(0, 8, 8, 3, dtype=torch.uint8)
    for how in (normalise, by_batch):
        assert how(none, torch.zeros(0, dtype=torch.bool), None, COLOURS).shape == (0, 3, 8, 8)


def test_a_backend_with_the_kernel_is_asked_for_it(monkeypatch):
    """The selection alone: the kernel itself is tested on a GPU, in tests/cuda."""
    from vggfast.data import colour

    asked = []

    class Own:
        own_ops = frozenset({"crop_images"})

    def crop_images(images, corners, size, mean, std, *, flips, shifts):
        asked.append((corners.tolist(), size, mean, std, flips, shifts))
        return "its result"

    monkeypatch.setattr(colour, "select", lambda call: Own())
    monkeypatch.setattr(colour, "crop_images", crop_images)
    flips = torch.tensor([True, False])
    images = torch.zeros(2, 4, 5, 3, dtype=torch.uint8, device="meta")  # any but the CPU
    assert normalise(images, flips, None, COLOURS) == "its result"
    assert asked == [([[0, 0], [0, 0]], (4, 5), COLOURS.mean, COLOURS.std, flips, None)]
