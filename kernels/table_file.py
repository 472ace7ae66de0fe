"""The file of measured tiles: what an entry says, which shapes it stands for, how it is read.

    {"schema": 1, "note": "...", "entries": [{"op": "fprop", "n": 64, "h": 56, ...}, ...]}

Two files have this form: tuned.json beside this one, which is shipped, and tiles.json in the user's
cache folder, which ``python -m vggfast.tune`` writes. A tile in them must be one of this package's
tiles.json, whose entries are known to compile within the limits: others are stale and not used.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .tiles import Tile, table

SCHEMA = 1  # raised when a field changes its meaning
SHIPPED = Path(__file__).with_name("tuned.json")
FILE = "tiles.json"


class TableError(ValueError):
    """A file of measured tiles cannot be used; the message is one line and names the file."""


@dataclass(frozen=True)
class Shape:
    """A class of shapes: exact map and channels, N rounded up to a power of two.

    The product's own sizes, as a launcher hands them to the choice: ``h``, ``w`` of the map that is
    tiled (without the odd row or column that a pool drops), ``c_out`` what is written and ``c_in``
    what is summed over (dgrad of 64 -> 128 channels has 128 and 64), padded where memory is.
    """

    n: int
    h: int
    w: int
    c_in: int
    c_out: int
    pool: bool = False

    @property
    def pixels(self) -> int:
        return self.n * self.h * self.w


@dataclass(frozen=True)
class Gpu:
    """What was measured on: compute capability ("9.0") and name."""

    capability: str
    name: str


Key = tuple[str, Shape, Gpu, str]  # op, shape, GPU, dtype


@dataclass(frozen=True)
class Entry:
    """One measurement: the fastest tile of a class of shapes on a GPU.

    ``ms`` is the median time of the call at ``batch`` images, ``rule_ms`` that of the rule's tile,
    or None where that does not run.
    """

    op: str  # fprop, dgrad, wgrad, ...: what a launcher calls it
    shape: Shape
    gpu: Gpu
    dtype: str
    tile: Tile
    ms: float
    rule_ms: float | None
    batch: int
    triton: str
    torch: str
    date: str

    @property
    def key(self) -> Key:
        """A newer entry with the same key replaces an older one."""
        return self.op, self.shape, self.gpu, self.dtype

    def as_dict(self) -> dict[str, Any]:
        return {
            "op": self.op, **asdict(self.shape), "capability": self.gpu.capability,
            "gpu": self.gpu.name, "dtype": self.dtype, "tile": self.tile.as_dict(), "ms": self.ms,
            "rule_ms": self.rule_ms, "batch": self.batch, "triton": self.triton,
            "torch": self.torch, "date": self.date,
        }  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A file as read. ``stale``: as they stand, entries whose tile this version does not have."""

    path: Path
    entries: tuple[Entry, ...] = ()
    stale: tuple[tuple[Key, dict[str, Any]], ...] = ()


def bucket(n: int) -> int:
    """``n`` images rounded up to a power of two."""
    return 1 << max(0, n - 1).bit_length()


def user_path() -> Path:
    """The user's file: ``VGGFAST_CACHE`` is its folder, else the platform's place for caches."""
    folder = os.environ.get("VGGFAST_CACHE")
    if folder:
        return Path(folder).expanduser() / FILE
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "vggfast" / FILE
    named = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    base = os.environ.get(named)
    return (Path(base) if base else Path.home() / ".cache") / "vggfast" / FILE


def read(path: Path) -> Table:
    """The entries of a file; an empty table if there is no such file.

    Raises:
        TableError: it is not readable, is no such table, or is of a newer schema.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Table(path)
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read: {_one_line(error)}") from error
    try:
        return _parsed(path, json.loads(text))
    except json.JSONDecodeError as error:
        raise TableError(f"{path}: is not JSON: {error}") from error
    except (ValueError, RecursionError) as error:
        raise TableError(f"{path}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def render(entries: list[dict[str, Any]], note: str) -> str:
    """The text of a file, an entry a line, in an order that does not depend on who wrote last."""
    rows = sorted(map(json.dumps, entries))
    listed = "".join(f"\n  {row}," for row in rows)[:-1] + ("\n " if rows else "")
    head = f'{{\n "schema": {SCHEMA},\n "note": {json.dumps(note)},\n'
    return f'{head} "entries": [{listed}]\n}}\n'


def _parsed(path: Path, document: Any) -> Table:
    if not isinstance(document, dict) or not isinstance(document.get("entries"), list):
        raise ValueError('is no table of tiles: it must be {"schema": ..., "entries": [...]}')
    schema = document.get("schema")
    if schema != SCHEMA:
        raise ValueError(f"schema: got {schema!r}, this version of vggfast reads {SCHEMA}")
    known = {tile: tile for tile in table()}
    found: list[Entry] = []
    stale: list[tuple[Key, dict[str, Any]]] = []
    for i, raw in enumerate(document["entries"]):
        if not isinstance(raw, dict):
            raise ValueError(f"entry {i}: got {raw!r}, it must be an object")
        facts = _facts(i, raw)
        tile = _known_tile(facts.pop("tile"), known)
        if tile is not None:
            found.append(Entry(tile=tile, **facts))
        else:
            stale.append(((facts["op"], facts["shape"], facts["gpu"], facts["dtype"]), raw))
    return Table(path, tuple(found), tuple(stale))


_TEXTS = ("op", "capability", "gpu", "dtype", "triton", "torch", "date")
_COUNTS = ("n", "h", "w", "c_in", "c_out", "batch")


def _facts(i: int, raw: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`Entry`, checked; the tile as it stands."""

    def field(name: str, kinds: tuple[type, ...], what: str) -> Any:
        value: Any = raw.get(name)
        # To Python a bool is an int.
        right = type(value) in kinds and not (what.startswith("positive") and not value > 0)
        if not right:
            raise ValueError(f"entry {i}: {name}: got {value!r}, it must be {what}")
        return value

    facts = {name: field(name, (str,), "a text") for name in _TEXTS}
    facts |= {name: field(name, (int,), "positive and whole") for name in _COUNTS}
    facts["ms"] = float(field("ms", (int, float), "positive"))
    no_rule = raw.get("rule_ms") is None
    facts["rule_ms"] = None if no_rule else float(field("rule_ms", (int, float), "positive"))
    facts["pool"] = field("pool", (bool,), "true or false")
    facts["tile"] = field("tile", (dict,), "an object")
    facts["shape"] = Shape(**{f.name: facts.pop(f.name) for f in fields(Shape)})
    facts["gpu"] = Gpu(facts.pop("capability"), facts["gpu"])
    return facts


def _known_tile(raw: dict[str, Any], known: dict[Tile, Tile]) -> Tile | None:
    try:
        return known.get(Tile.from_dict(raw))
    except (ValueError, TypeError):  # a field of another version, a value that is no number
        return None
