"""The tile table (tiles.json) and the rule that chooses an entry by shape, dtype and architecture.

An entry serves one kernel ("fprop", which is dgrad too, "wgrad", or the first layer's "first" and
"first_wgrad") on one generation (90: Hopper
and data-centre Blackwell, by TMA; 80: the rest from Ampere on) at one width (16 or 32 bits). Its
tile is a box of images x rows x columns of pixels, ``bc`` output and ``bk`` input channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path


@dataclass(frozen=True)
class Tile:
    """One entry: what a program computes, and with how many pipeline stages and warps."""

    kernel: str
    arch: int
    bits: int
    box: tuple[int, int, int]
    bc: int
    bk: int
    stages: int
    warps: int

    @property
    def name(self) -> str:
        """For tables and test ids, such as ``fprop_sm90_16b_1x4x32_128x64``."""
        box = "x".join(map(str, self.box))
        return f"{self.kernel}_sm{self.arch}_{self.bits}b_{box}_{self.bc}x{self.bk}"

    def counts(self, pixels: tuple[int, int, int]) -> tuple[int, int, int]:
        """How many boxes cover a map of ``pixels`` = (N, H, W) along each axis."""
        n, h, w = (-(-size // side) for size, side in zip(pixels, self.box, strict=True))
        return n, h, w

    def work(self, pixels: tuple[int, int, int], c_out: int, c_in: int) -> int:
        """Multiplications per tap a map takes with this tile, the waste of part tiles included."""
        volume = prod(self.counts(pixels)) * prod(self.box)
        return volume * -(-c_out // self.bc) * self.bc * -(-c_in // self.bk) * self.bk


@lru_cache(maxsize=1)
def table() -> tuple[Tile, ...]:
    """Every entry of tiles.json, in its order."""
    entries = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return tuple(Tile(**{**entry, "box": tuple(entry["box"])}) for entry in entries)


_forced: dict[str, Tile] = {}


@contextmanager
def forced(tile: Tile) -> Iterator[None]:
    """Within the block every launch of ``tile.kernel`` uses ``tile``: for tests and tuning."""
    before = _forced.get(tile.kernel)
    _forced[tile.kernel] = tile
    try:
        yield
    finally:
        if before is None:
            del _forced[tile.kernel]
        else:
            _forced[tile.kernel] = before


def choose(
    kernel: str, arch: int, bits: int, pixels: tuple[int, int, int], c_out: int, c_in: int
) -> Tile:
    """The entry that wastes least on this shape; among equals the first of the table.

    Args:
        kernel: "fprop", "wgrad", "first" or "first_wgrad".
        arch: 80 or 90.
        bits: width of the dtype, 16 or 32.
        pixels: (N, H, W) of the map that is tiled.
        c_out, c_in: output and input channels of the product (for dgrad: those of dx and of dz).
    """
    return _forced.get(kernel) or _choose(kernel, arch, bits, pixels, c_out, c_in)


@lru_cache(maxsize=4096)
def _choose(
    kernel: str, arch: int, bits: int, pixels: tuple[int, int, int], c_out: int, c_in: int
) -> Tile:
    fitting = [t for t in table() if (t.kernel, t.arch, t.bits) == (kernel, arch, bits)]
    return min(fitting, key=lambda t: t.work(pixels, c_out, c_in))
