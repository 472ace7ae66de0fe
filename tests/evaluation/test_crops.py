"""Where crops lie."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggfast.errors import InputError
from vggfast.evaluation.crops import centre_corner, grid_corners


def test_the_papers_256_pixels() -> None:
    """Crops of 224 in an image of 256 x 384: 8 pixels apart one way, 40 the other."""
    corners = grid_corners(256, 384, 224)
    assert corners == [(t, left) for t in (0, 8, 16, 24, 32) for left in (0, 40, 80, 120, 160)]


def test_distances_that_are_no_whole_numbers() -> None:
    def places(room: int) -> list[int]:
        return [left for _, left in grid_corners(32, 32 + room, 32)[:5]]

    assert places(0) == [0, 0, 0, 0, 0]
    assert places(1) == [0, 0, 0, 1, 1]
    assert places(2) == [0, 0, 1, 1, 2]
    assert places(3) == [0, 1, 1, 2, 3]
    assert places(5) == [0, 1, 2, 4, 5]
    assert places(6) == [0, 1, 3, 4, 6]


def test_other_grids() -> None:
    assert grid_corners(40, 36, 32, 2) == [(0, 0), (0, 4), (8, 0), (8, 4)]
    assert grid_corners(40, 32, 32, 3)[::3] == [(0, 0), (4, 0), (8, 0)]


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([32, 224]), st.integers(2, 7))
def test_any_image(extra_height: int, extra_width: int, crop: int, n: int) -> None:
    height, width = crop + extra_height, crop + extra_width
    corners = grid_corners(height, width, crop, n)
    assert len(corners) == n * n
    assert [t for t, _ in corners] == sorted(t for t, _ in corners)
    assert corners[:n] == sorted(corners[:n])
    assert corners[0] == (0, 0)
    assert corners[-1] == (extra_height, extra_width)
    for top, left in corners:
        for place, room in ((top, extra_height), (left, extra_width)):
            assert min(abs(place - i * room / (n - 1)) for i in range(n)) <= 0.5
    if n % 2:
        assert corners[n * n // 2] == centre_corner(height, width, crop)


def test_the_centre() -> None:
    assert centre_corner(37, 32, 32) == (2, 0)
    assert centre_corner(256, 341, 224) == (16, 58)


def test_too_small() -> None:
    for size in ((31, 40), (40, 31)):
        with pytest.raises(InputError, match="31 pixels, allowed is 32"):
            grid_corners(*size, 32)
        with pytest.raises(InputError, match="31 pixels, allowed is 32"):
            centre_corner(*size, 32)
    with pytest.raises(InputError, match="n: got 1"):
        grid_corners(40, 40, 32, 1)
