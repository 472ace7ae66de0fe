"""What the first layer's kernels serve, and how many programs run; needs no torch."""

from .tiles import Tile

CHANNELS = 3  # input channels that these kernels serve: 9 * 3 products fill one step of 32
TURNS = 16  # programs of fprop per multiprocessor, of which about 4 run at a time

# Warps that a multiprocessor holds by (kernel, generation, bits), without a pool and with one. As
# programs wait for memory, only others fill the time; compile_check.py sees that registers and
# shared memory allow it. (A cap on registers, maxnreg, made ptxas spill where it does not else.)
_WARPS = {
    ("first", 90, 16): (16, 16),
    ("first", 80, 16): (8, 8),
    ("first", 90, 32): (16, 16),
    ("first", 80, 32): (12, 12),
    ("first_wgrad", 90, 16): (12, 12),
    ("first_wgrad", 80, 16): (8, 8),
    ("first_wgrad", 90, 32): (8, 8),
    ("first_wgrad", 80, 32): (8, 8),
}


def resident(tile: Tile, pool: bool) -> int:
    """Programs of ``tile`` that a multiprocessor holds at a time."""
    return max(1, _WARPS[tile.kernel, tile.arch, tile.bits][pool] // tile.warps)
