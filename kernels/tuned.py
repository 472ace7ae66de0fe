"""Which tile serves a call: forced, the user's table, the shipped one, or else the rule.

Nothing is timed here: tables are read once, at the first call, and ``python -m vggfast.tune``
measures when it is asked to. A table that cannot be used is ignored with a warning, since a cache
should not stop a training run; ``vggfast.explain()`` tells what serves.

An entry serves its class of shapes (table_file.Shape) and, where there is none, that of a neighbour
with the same op, channels, pool and dtype whose map has at most twice and at least half as many
pixels. Entries of this very GPU go first, then those of others of the same compute capability. Away
from the batch it was measured at, a tile must not waste more than a tenth beyond the rule's choice.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from . import external, flat_plan, gluon_plan, tiles
from .table_file import SHIPPED, Entry, Gpu, Shape, Table, TableError, bucket, read, user_path

NEIGHBOUR = 2.0  # how many times more or fewer pixels a class may have that serves another
WASTE = 1.1  # of the multiplications of the rule's tile


class Query(NamedTuple):
    """What a launcher asks. ``gpu`` None: by the rule alone. The rest: tiles.choose, Shape."""

    kernel: str  # whose tiles may serve: dgrad runs those of "fprop"
    arch: int
    bits: int
    pixels: tuple[int, int, int]  # N, H, W
    c_out: int
    c_in: int
    op: str
    pool: bool
    dtype: str
    gpu: Gpu | None
    ieee: bool = False  # float32 products on the ordinary cores

    @property
    def shape(self) -> Shape:
        n, h, w = self.pixels
        return Shape(bucket(n), h, w, self.c_in, self.c_out, self.pool)


@dataclass(frozen=True)
class Tables:
    """What is in use. ``problem``: why the user's file is ignored, if it is."""

    user: Table
    shipped: Table
    problem: str | None = None


class Asked(BaseException):
    """Ends a launch within :func:`asking`. Not an Exception: nobody may handle it on the way."""

    def __init__(self, query: Query) -> None:
        super().__init__(query)
        self.query = query


_asking = False


@contextmanager
def asking() -> Iterator[list[Query]]:
    """Within the block no kernel with tiles is launched: it ends at its choice, which is noted.

    So the tuner learns what a launcher asks, and with which paddings, from the launcher itself.
    """
    global _asking
    noted: list[Query] = []
    _asking = True
    try:
        yield noted
    except Asked as asked:
        noted.append(asked.query)
    finally:
        _asking = False


def choose(query: Query) -> tiles.Tile:
    """The tile that serves a call: forced, by the user's table, by the shipped one, by the rule."""
    if _asking:
        raise Asked(query)
    return tiles.forced_for(query.kernel) or _choose(query)


@lru_cache(maxsize=4096)
def _choose(query: Query) -> tiles.Tile:
    entry, _ = source(query)
    return rule(query) if entry is None else entry.tile


def rule(query: Query) -> tiles.Tile:
    """What the rule alone would choose."""
    return tiles.choose(*query[:6], query.ieee, query.pool)


def as_shipped(query: Query) -> tiles.Tile:
    """What serves where the user has no table: the shipped one, or the rule."""
    entry = find(tables().shipped, query)
    return rule(query) if entry is None else entry.tile


def source(query: Query) -> tuple[Entry | None, Table | None]:
    """The entry that serves a query and the table it is from; (None, None) where the rule does."""
    if query.gpu is not None:
        used = tables()
        for table in (used.user, used.shipped):
            entry = find(table, query)
            if entry is not None:
                return entry, table
    return None, None


def find(table: Table, query: Query) -> Entry | None:
    """The entry of one table that serves a query, or None."""
    fitting = [e for e in table.entries if _fits(e, query)]
    return min(fitting, key=lambda e: _distance(e, query), default=None)


def _fits(entry: Entry, query: Query) -> bool:
    assert query.gpu is not None
    mine, its, tile = query.shape, entry.shape, entry.tile
    kernel = "fprop" if query.kernel == "dgrad" else query.kernel  # a chain's
    same = (
        (entry.op, entry.dtype, entry.gpu.capability)
        == (query.op, query.dtype, query.gpu.capability)
        and (tile.kernel, tile.arch, tile.bits) == (kernel, query.arch, query.bits)
        and tile.ieee == query.ieee
        and runs(tile, query)
        and (its.c_in, its.c_out, its.pool) == (mine.c_in, mine.c_out, mine.pool)
    )
    if not same or _ratio(mine, its) > NEIGHBOUR:
        return False
    if query.pixels == (entry.batch, its.h, its.w):
        return True
    work = tile.work(query.pixels, query.c_out, query.c_in)
    return work <= WASTE * rule(query).work(query.pixels, query.c_out, query.c_in)


def runs(tile: tiles.Tile, query: Query) -> bool:
    """Whether a kernel of the tile's form can run for the query on its GPU, with this Triton."""
    if query.pool and not tile.pools:
        return False
    if query.kernel == "dgrad":  # a chain's has one form
        return tile.form == "loop" and not tile.persistent
    if tile.form == "gluon":
        return _hopper(query) and gluon_plan.absent() is None
    if tile.form == "flat":
        return flat_plan.refused(*query.pixels, tile.box[2]) is None
    if tile.form == "cuda":
        fits = external.fits(tile, query.c_out, query.c_in)
        return fits and _hopper(query) and external.absent() is None
    return True


def _hopper(query: Query) -> bool:
    return query.gpu is not None and query.gpu.capability == "9.0"


def _distance(entry: Entry, query: Query) -> tuple[bool, bool, float, bool, int]:
    """Smaller is nearer: this GPU, this class, as many pixels, this map, the larger batch."""
    mine, its = query.shape, entry.shape
    return (
        entry.gpu != query.gpu,
        its != mine,
        _ratio(mine, its),
        (its.h, its.w) != (mine.h, mine.w),
        -its.n,
    )


def _ratio(one: Shape, other: Shape) -> float:
    return max(one.pixels, other.pixels) / max(1, min(one.pixels, other.pixels))


@lru_cache(maxsize=1)
def _tables() -> Tables:
    shipped = read(SHIPPED)
    path = user_path()
    try:
        return Tables(read(path), shipped)
    except TableError as error:
        return Tables(Table(path), shipped, str(error))


_warned: set[str] = set()


def tables() -> Tables:
    """The tables in use, read at the first call; warns once if the user's file is ignored."""
    used = _tables()
    if used.problem is not None and used.problem not in _warned:
        _warned.add(used.problem)
        warnings.warn(f"vggfast ignores {used.problem}", stacklevel=2)
    return used


def reload() -> None:
    """Read the tables again at the next call, after one of them has changed."""
    _tables.cache_clear()
    _choose.cache_clear()
    _warned.clear()


def explained(gpu: Gpu | None) -> str:
    """One line for ``vggfast.explain``: the tables in use, and how much of them is for ``gpu``."""
    used = tables()
    told = []
    if used.problem is not None:
        told.append(f"your table is ignored ({used.problem})")
    elif used.user.entries or used.user.stale:
        told.append(f"yours ({_count(used.user, gpu)}, {used.user.path})")
    else:
        told.append(f"none of yours (python -m vggfast.tune writes {used.user.path})")
    told.append(f"shipped ({_count(used.shipped, gpu)})")
    return f"tiles: {', then '.join([*told, 'the rule of least waste'])}"


def of_form(form: str, gpu: Gpu) -> int:
    """How many entries of both tables name a tile of ``form`` for the compute capability."""
    used = tables()
    entries = (*used.user.entries, *used.shipped.entries)
    return sum(e.tile.form == form and e.gpu.capability == gpu.capability for e in entries)


def _count(table: Table, gpu: Gpu | None) -> str:
    entries = table.entries
    text = f"{len(entries)} entr{'y' if len(entries) == 1 else 'ies'}"
    if gpu is not None and entries:
        text += f", {sum(e.gpu.capability == gpu.capability for e in entries)} for this GPU"
    return text + (f", {len(table.stale)} stale" if table.stale else "")
