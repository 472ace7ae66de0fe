"""Geometry: crops lie in the image and are what Pillow's whole rescaling would give."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vggfast.data.transforms import CentreCrop, TrainCrop, rescaled

SIDES = st.integers(1, 3000)
DRAWS = st.integers(0, 2**62 - 1)


@given(SIDES, SIDES, st.integers(1, 600))
def test_rescaling_keeps_proportions(w, h, s):
    width, height = rescaled((w, h), s)
    assert min(width, height) == s
    assert abs(width * h - height * w) <= max(w, h) / 2 + 1e-6 * w * h  # half a pixel
    assert (width >= height) == (w >= h) or width == height


@given(SIDES, SIDES, st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), DRAWS)
def test_a_crop_lies_inside_and_its_scale_in_range(w, h, size, more, range_, draw):
    low = size + more
    window = TrainCrop(size, (low, low + range_), True).plan(draw, (w, h))
    assert low <= min(window.scaled) <= low + range_
    assert 0 <= window.left <= window.scaled[0] - size
    assert 0 <= window.top <= window.scaled[1] - size
    assert window == TrainCrop(size, (low, low + range_), True).plan(draw, (w, h))


def test_the_centre_crop_is_in_the_middle():
    window = CentreCrop(32, (50, 50)).plan(0, (100, 50))
    assert (window.scaled, window.left, window.top, window.flip) == ((100, 50), 34, 9, False)
    assert window.box == (0.34, 0.18, 0.66, 0.82)
    assert CentreCrop(32, (40, 60)).plan(0, (200, 100)).scaled == (100, 50)


def test_every_place_is_reached_and_half_are_mirrored():
    windows = [TrainCrop(30, (32, 32), True).plan(draw, (34, 32)) for draw in range(900)]
    counts = np.zeros((3, 5), int)
    for window in windows:
        counts[window.top, window.left] += 1
    assert counts.min() > 30  # 60 expected each
    assert 390 < sum(w.flip for w in windows) < 510
    assert not any(TrainCrop(30, (32, 32), False).plan(d, (34, 32)).flip for d in range(99))


def test_scales_are_drawn_evenly_and_alphas_are_normal():
    windows = [TrainCrop(8, (10, 19), True).plan(draw, (50, 50)) for draw in range(2000)]
    counts = np.bincount([min(w.scaled) for w in windows], minlength=20)[10:]
    assert counts.min() > 140
    alphas = np.array([w.alphas for w in windows])
    assert np.abs(alphas.mean(0)).max() < 0.01
    assert np.abs(alphas.std(0) - 0.1).max() < 0.006
    assert np.abs(np.corrcoef(alphas.T) - np.eye(3)).max() < 0.08
