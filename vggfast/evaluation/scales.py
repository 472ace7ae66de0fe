"""Test scales Q: what ``--scales`` means for a network (section 3.2)."""

from __future__ import annotations

from vggfast.errors import InputError

NAMES = ("auto", "one")
PAPER_CROP, PAPER_STEP = 224, 32
MOST = 4096  # pixels: beyond, a mistyped scale would take all memory


def test_scales(spec: str, trained: tuple[int, int], crop: int) -> tuple[int, ...]:
    """The scales that ``spec`` names, ascending.

    - "auto": the paper's sets: {S - 32, S, S + 32} for a network trained at S, {S_min, the middle,
      S_max} for one trained at [S_min, S_max]. 32 is for a crop of 224 and goes with the crop
      (32: 5); a scale below the crop becomes the crop.
    - "one": the single scale of table 3: S, or the middle of [S_min, S_max].
    - "256,384": these.

    Args:
        spec: one of the above.
        trained: (S_min, S_max).
        crop: the network's crop.

    Raises:
        InputError: none of the above, or a scale smaller than the crop.
    """
    low, high = trained
    middle = (low + high) // 2
    if spec == "one":
        return (max(middle, crop),)
    if spec == "auto":
        step = max(1, round(PAPER_STEP * crop / PAPER_CROP))
        ends = (low - step, high + step) if low == high else (low, high)
        return tuple(sorted({max(q, crop) for q in (ends[0], middle, ends[1])}))
    scales = listed(spec)
    if scales[0] < crop:
        raise InputError(
            f"scales: got {spec!r}, allowed are scales from {crop} up, the network's crop"
        )
    return scales


def listed(spec: str) -> tuple[int, ...]:
    """The scales of a list such as "256,384", ascending, each once.

    Raises:
        InputError: it is no such list, or a scale is above ``MOST``.
    """
    parts = [part.strip() for part in spec.split(",")]
    whole = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in parts)
    if not whole or not all(0 < int(part) <= MOST for part in parts):
        raise InputError(
            f"scales: got {spec!r}, allowed are auto, one, or whole numbers such as 256,384,512, "
            f"up to {MOST}"
        )
    return tuple(sorted({int(part) for part in parts}))
