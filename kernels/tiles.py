"""The tiles there are (tiles.json) and the rule that chooses one by shape, dtype and architecture.

An entry serves one kernel ("fprop", which is dgrad too, or "wgrad") on one generation (90: Hopper
and data-centre Blackwell, by TMA; 80: the rest from Ampere on) at one width (16 or 32 bits). Its
tile is a box of images x rows x columns of pixels, ``bc`` output and ``bk`` input channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any


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

    def as_dict(self) -> dict[str, Any]:
        """For JSON: every field but those that have their default."""
        return {
            f.name: list(value) if isinstance(value, tuple) else value
            for f in fields(self)
            for value in (getattr(self, f.name),)
            if f.default is MISSING or value != f.default
        }

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> Tile:
        """The reverse of :meth:`as_dict`; a field that is not given has its default.

        Raises:
            ValueError: a field is missing, or there is no such field.
        """
        known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(cls)}
        strange = sorted(set(entry) - set(known))
        absent = [name for name, needed in known.items() if needed and name not in entry]
        if strange or absent:
            what, which = ("has no field", strange) if strange else ("lacks", absent)
            raise ValueError(f"a tile {what} {', '.join(which)}")
        values: dict[str, Any] = {
            n: tuple(v) if isinstance(v, list) else v for n, v in entry.items()
        }
        return cls(**values)


@lru_cache(maxsize=1)
def table() -> tuple[Tile, ...]:
    """Every entry of tiles.json, in its order."""
    entries = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return tuple(map(Tile.from_dict, entries))


def candidates(kernel: str, arch: int, bits: int) -> list[Tile]:
    """The entries that can serve a kernel on a generation at a width."""
    return [t for t in table() if (t.kernel, t.arch, t.bits) == (kernel, arch, bits)]


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


def forced_for(kernel: str) -> Tile | None:
    """The tile that :func:`forced` asks for now, or None."""
    return _forced.get(kernel)


def choose(
    kernel: str, arch: int, bits: int, pixels: tuple[int, int, int], c_out: int, c_in: int
) -> Tile:
    """The rule: the entry that wastes least on this shape; among equals the first of the table.

    What was measured goes before it: tuned.py.

    Args:
        kernel: "fprop" or "wgrad".
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
    fitting = candidates(kernel, arch, bits)
    return min(fitting, key=lambda t: t.work(pixels, c_out, c_in))
