"""How many programs share a sum: by counting, for each pass. Needs no torch."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from .tiles import Tile

MAX_PARTIALS = 1 << 26  # float32 elements of the workspace of a weight gradient: 256 MB
_LEAST_STEPS = 4  # of a split of fprop: fewer do not fill the pipeline of loads
_SHARED = 227 << 10  # bytes of a multiprocessor (H100)
# What decides between more splits and fewer bytes of partial sums, for an H100; an A100 has less of
# both in about the same proportion.
_CORE_FLOPS, _BYTES = 4.5e12, 3e12  # a second, of one multiprocessor and of memory


def share(items: int, parts: int) -> tuple[int, int]:
    """Divide ``items`` among about ``parts``: (items each, parts), no part empty."""
    each = -(-items // max(1, min(parts, items)))
    return each, -(-items // each)


def fprop_splits(tile: Tile, programs: int, steps: int, cores: int) -> int:
    """Programs that share each of ``programs`` tiles of ``steps`` steps: to fill the GPU once."""
    wanted = tile.split or cores // programs
    return max(1, min(wanted, steps // _LEAST_STEPS))


@lru_cache(maxsize=1024)
def wgrad_splits(tile: Tile, programs: int, boxes: int, sums: int, cores: int) -> int:
    """The number of splits of the map's ``boxes`` that takes the least time by count.

    Too few leave multiprocessors without work in the last round, too many write and read ``sums``
    float32 partial sums each. 512 to 512 channels make 72 programs for 132 multiprocessors: in one
    split 60 of them would have nothing to do.
    """
    if tile.split:
        return min(tile.split, boxes)
    resident = cores * max(1, min(_SHARED // tile.shared, 1024 // (32 * tile.warps)))
    flops = 2 * prod(tile.box) * tile.bc * tile.bk * tile.taps

    def seconds(splits: int) -> float:
        rounds = -(-programs * splits // resident)
        work = rounds * (resident // cores) * -(-boxes // splits) * flops / _CORE_FLOPS
        return work + 8 * sums * splits / _BYTES

    most = max(1, min(boxes, 4 * resident // programs + 1))
    return min(range(1, most + 1), key=seconds)
