"""The tiles there are (tiles.json) and the rule that chooses one by shape, dtype and architecture.

An entry serves one kernel ("fprop", which is dgrad too, a chain's included, "wgrad", the first
layer's "first" and "first_wgrad", or "e4m3") on one generation (90: Hopper and data-centre
Blackwell, by TMA; 80: the rest from Ampere on) at one width (16 or 32 bits; 8 for e4m3, on 90
alone). Its tile is a box of images x rows x columns of pixels, ``bc`` output and ``bk`` input
channels.

Entries of form "gluon" are for gluon3x3.py (fprop on Hopper): ``stages`` is then how many x buffers
there are at most, and ``warps`` counts all of them. Those of form "flat" are for flat3x3.py: their
box is a run of rows of a padded-flat map, and they do not pool. Those of form "cuda" are for the
convolution in CUDA C++ (external.py), which cuts its tiles itself: ``box`` says how many pixels one
has, of any shape, and ``cluster`` how many blocks share their weights. The rule takes none of these
forms, as none was measured.
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

from . import flat_plan


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
    persistent: bool = False  # one program a multiprocessor, which takes tile after tile
    taps: int = 1  # of a program of wgrad: 1, or 3, which share their box of dz
    ieee: bool = False  # for float32 products on the ordinary cores
    pools: bool = True  # also with a pool in the epilogue, which takes registers
    split: int = 0  # programs that share a tile; 0: as many as fill the GPU
    form: str = "loop"  # or "gluon", "flat", "cuda"
    cluster: int = 1  # blocks of form "cuda" that bring their weights together

    @property
    def name(self) -> str:
        """For tables and test ids, such as ``fprop_sm90_16b_1x4x32_128x64``."""
        box = "x".join(map(str, self.box))
        kind = "ieee" if self.ieee else f"{self.bits}b"
        form = "" if self.form == "loop" else f"_{self.form}"
        form += f"_cluster{self.cluster}" if self.cluster > 1 else ""
        form += "" if self.pools else "_poolless"
        form += ("_persistent" if self.persistent else "") + ("_3taps" if self.taps == 3 else "")
        return f"{self.kernel}_sm{self.arch}_{kind}_{box}_{self.bc}x{self.bk}{form}"

    def counts(self, pixels: tuple[int, int, int]) -> tuple[int, int, int]:
        """How many boxes cover a map of ``pixels`` = (N, H, W) along each axis.

        Of form "flat" they cover its rows, which have one axis.
        """
        if self.form == "flat":
            return 1, 1, -(-flat_plan.rows(*pixels) // self.box[2])
        if self.form == "cuda":  # of any shape: few pixels are wasted, whatever the map
            return 1, 1, -(-prod(pixels) // prod(self.box))
        n, h, w = (-(-size // side) for size, side in zip(pixels, self.box, strict=True))
        return n, h, w

    @property
    def shared(self) -> int:
        """Bytes of shared memory that the pipeline of loads takes."""
        rows = prod(self.box) * self.bk + self.bc * self.bk  # fprop, e4m3: x and w
        if self.kernel == "wgrad":
            rows = prod(self.box) * (self.bc + self.taps * self.bk)  # dz and x
        return self.stages * rows * self.bits // 8

    def programs(self, pixels: tuple[int, int, int], c_out: int) -> int:
        """How many tiles cover the output."""
        return prod(self.counts(pixels)) * -(-c_out // self.bc)

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


# Two tiles for each of an H100's 132 multiprocessors: with fewer, a persistent program has no next
# tile whose loads could run beside the end of this one, and wide tiles leave a round half empty.
_LEAST_WIDE, _WIDE = 264, 256
_EQUAL = 1.02  # of the least work: tiles of form "flat" that waste no more are equals


@lru_cache(maxsize=1)
def table() -> tuple[Tile, ...]:
    """Every entry of tiles.json, in its order."""
    entries = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return tuple(map(Tile.from_dict, entries))


def candidates(kernel: str, arch: int, bits: int, ieee: bool = False) -> list[Tile]:
    """The entries that can serve a kernel on a generation at a width."""
    wanted = (kernel, arch, bits, ieee)
    return [t for t in table() if (t.kernel, t.arch, t.bits, t.ieee) == wanted]


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
    """The tile that :func:`forced` asks for now, or None; a chain's dgrad runs those of fprop."""
    return _forced.get("fprop" if kernel == "dgrad" else kernel)


def choose(
    kernel: str,
    arch: int,
    bits: int,
    pixels: tuple[int, int, int],
    c_out: int,
    c_in: int,
    ieee: bool = False,
    pool: bool = False,
    form: str = "loop",
) -> Tile:
    """The rule: the entry that wastes least on this shape; among equals the first of the table.

    What was measured goes before it: tuned.py.

    Of one form, "loop": others run when they are forced, or asked for here.

    Args:
        kernel: "fprop", "wgrad", "first", "first_wgrad", "e4m3", or "dgrad" of a chain, which takes
            fprop's entries but the persistent ones.
        arch: 80 or 90; 90 alone for e4m3.
        bits: width of the dtype, 8, 16 or 32.
        pixels: (N, H, W) of the map that is tiled.
        c_out, c_in: output and input channels of the product (for dgrad: those of dx and of dz).
        ieee: whether float32 products are made on the ordinary cores.
        pool: whether the epilogue has a pool or, in a chain, the way back through one.
        form: of the entries that may be chosen.
    """
    return forced_for(kernel) or _choose(
        kernel, arch, bits, pixels, c_out, c_in, ieee, pool, form
    )  # fmt: skip


@lru_cache(maxsize=4096)
def _choose(
    kernel: str,
    arch: int,
    bits: int,
    pixels: tuple[int, int, int],
    c_out: int,
    c_in: int,
    ieee: bool,
    pool: bool,
    form: str,
) -> Tile:
    chain = kernel == "dgrad"
    kernel = "fprop" if chain else kernel

    def fits(t: Tile) -> bool:
        if t.persistent and chain:
            return False
        wide = t.kernel == "fprop" and (t.persistent or prod(t.box) >= _WIDE)
        if wide and t.programs(pixels, c_out) < _LEAST_WIDE:
            return False
        if pool and not t.pools:
            return False
        return t.form == form  # nothing was measured: only a table or a test takes another

    fitting = list(filter(fits, candidates(kernel, arch, bits, ieee)))
    least = min(t.work(pixels, c_out, c_in) for t in fitting)
    # No tile of rows divides a map, so those of form "flat" are all but equal, never quite.
    limit = _EQUAL * least if form == "flat" else least
    return next(t for t in fitting if t.work(pixels, c_out, c_in) <= limit)
