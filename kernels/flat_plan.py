"""Sizes of the padded-flat form, and which maps it serves. Needs neither torch nor triton."""

from __future__ import annotations

_ROWS = 1 << 30  # rows are counted in 32 bits, which shifts and a last part tile must not leave


def rows(n: int, h: int, w: int) -> int:
    """Rows of the matrix of N maps of H x W: each with one more line and column, which are zero."""
    return n * (h + 1) * (w + 1)


def refused(n: int, h: int, w: int, p: int) -> str | None:
    """Why tiles of ``p`` rows cannot serve N maps of H x W, or None: they can."""
    if rows(n, h, w) > _ROWS:
        return f"got N x H x W = {n} x {h} x {w}, allowed are N (H + 1) (W + 1) <= {_ROWS}"
    # Of a tile a place in a line is below W + p, a line in an image at most H + p / 2 + 1: what
    # flat3x3.place divides, which is exact up to here.
    longest = max(h, w)
    if (longest + 1) * (longest + p) >= 1 << 32:
        return f"got H x W = {h} x {w}, allowed are maps of about 65000 lines and columns"
    return None


def reciprocal(divisor: int) -> int:
    """ceil(2^32 / divisor), as the signed 32 bits that a kernel takes; ``divisor`` >= 2."""
    value = -(-(1 << 32) // divisor)
    return value - (1 << 32) if value >= 1 << 31 else value
