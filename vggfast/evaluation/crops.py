"""Where the crops of an image lie: a regular grid, and the centre (section 3.2)."""

from __future__ import annotations

from vggfast.errors import InputError

GRID = 5  # 5 x 5 crops and their mirror images: 50 a scale


def grid_corners(height: int, width: int, crop: int, n: int = GRID) -> list[tuple[int, int]]:
    """(top, left) of n x n crops at even distances from corner to corner, row by row.

    A distance that is no whole number of pixels is rounded to the nearest, halves down, so that
    the middle crop is :func:`centre_corner`'s. In an image as small as the crop they are all one.

    Raises:
        InputError: the image is smaller than the crop, or n < 2.
    """
    if n < 2:
        raise InputError(f"n: got {n}, allowed are whole numbers from 2 up")
    tops, lefts = (_places(_room(side, crop), n) for side in (height, width))
    return [(top, left) for top in tops for left in lefts]


def centre_corner(height: int, width: int, crop: int) -> tuple[int, int]:
    """(top, left) of the crop in the centre; an odd pixel is left over below and on the right.

    Raises:
        InputError: the image is smaller than the crop.
    """
    return _room(height, crop) // 2, _room(width, crop) // 2


def _room(side: int, crop: int) -> int:
    if side < crop:
        raise InputError(f"image: got a side of {side} pixels, allowed is {crop} (crop) or more")
    return side - crop


def _places(room: int, n: int) -> list[int]:
    steps = n - 1
    return [(2 * i * room + steps - 1) // (2 * steps) for i in range(n)]
