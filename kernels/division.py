"""How the launchers divide a call among programs: for the tuner and the counted model.

Follows launch/fprop.py, dgrad.py, wgrad.py, first.py, gluon.py and flat.py; tests hold them
together. Tiles of form "cuda" are counted by their pixels: their kernel cuts them itself. Needs
neither torch nor triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from .first_plan import TURNS, resident
from .splits import MAX_PARTIALS, fprop_splits, share, wgrad_splits
from .tiles import Tile
from .tuned import Query


@dataclass(frozen=True)
class Division:
    """Tiles of the result, whose sums of ``total`` steps are split among programs."""

    grid: tuple[int, ...]  # programs launched; persistent ones take tile after tile
    tiles: int
    splits: int  # parts of each tile's sum
    steps: int  # of the longest part
    total: int  # of a tile
    macs: int  # multiply-adds of a step, waste included
    sums: int  # float32 partial sums that a split leaves for a second kernel; 0: there is none

    @property
    def parts(self) -> int:
        """Pieces of work: parts of tiles."""
        return self.tiles * self.splits

    def turns(self, cores: int) -> int:
        """Pieces of the busiest multiprocessor."""
        return -(-self.parts // cores)


def divide(tile: Tile, query: Query, cores: int) -> Division:
    """The division of a call that is served with ``tile`` on ``cores`` multiprocessors."""
    boxes, blocks = prod(tile.counts(query.pixels)), -(-query.c_out // tile.bc)
    macs = prod(tile.box) * tile.bc * tile.bk
    if tile.kernel == "first":
        return Division((min(boxes, TURNS * cores), blocks), boxes * blocks, 1, 1, 1, macs, 0)
    if tile.kernel == "first_wgrad":
        sums = query.c_out * tile.bk
        wanted = min(resident(tile, query.pool) * cores // blocks, MAX_PARTIALS // sums)
        each, splits = share(boxes, wanted)
        corners = 4 if query.pool else 1  # of a window, each a product
        return Division(
            (splits, blocks), blocks, splits, corners * each, corners * boxes, macs, sums
        )
    if tile.kernel == "wgrad":
        blocks *= 9 // tile.taps * -(-query.c_in // tile.bk)
        sums = 9 * query.c_out * query.c_in
        wanted = wgrad_splits(tile, blocks, boxes, sums, cores)
        each, splits = share(boxes, min(wanted, MAX_PARTIALS // sums))
        return Division((blocks, splits), blocks, splits, each, boxes, tile.taps * macs, sums)
    tiles, steps = boxes * blocks, 9 * -(-query.c_in // tile.bk)
    if query.kernel == "dgrad":  # a chain's: its epilogue needs whole sums
        return Division((tiles,), tiles, 1, steps, steps, macs, 0)
    if tile.form != "loop":
        one_each = tile.persistent or tile.form in ("gluon", "cuda")
        grid = (min(tiles, cores) if one_each else tiles,)
        return Division(grid, tiles, 1, steps, steps, macs, 0)
    each, splits = share(steps, fprop_splits(tile, tiles, steps, cores))
    if splits > 1:
        sums = tiles * prod(tile.box) * tile.bc
        return Division((tiles, splits), tiles, splits, each, steps, macs, sums)
    grid = (min(tiles, cores) if tile.persistent else tiles,)
    return Division(grid, tiles, 1, steps, steps, macs, 0)
