"""Which algorithm the CPU kernels convolve with, by shape alone, and how far each rounds.

``direct`` is an implicit GEMM, ``f2``, ``f4`` and ``f6`` are Winograd F(2x2, 3x3) to F(6x6, 3x3),
which need 2.25, 4 and 5 times fewer multiplications. ``f2_amx``, ``f4_amx`` and ``f6_amx`` are the
same with each float32 as three bfloat16 on AMX, where the CPU has it. ``with exact():`` keeps to
``direct``; ``VGGFAST_CPU_CONV`` forces any of them; the default, ``auto``, takes the one that the
table ``cpu_conv.json``, measured by ``bench/tune_cpu.py``, predicts to be the fastest.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vggfast.backends import native
from vggfast.errors import InputError

# Outputs of a tile along each side; a direct convolution counts pixels.
ALGORITHMS = {"direct": 1, "f2": 2, "f4": 4, "f6": 6, "f2_amx": 2, "f4_amx": 4, "f6_amx": 6}
TABLE = Path(__file__).with_name("cpu_conv.json")
LEAST_CHANNELS = 16  # with fewer, the transforms cost more than the multiplications they save

# Relative rms error against float64 that a Winograd result may show beside the direct kernel's, for
# inputs whose terms do not cancel more than random ones do: docs/numerics.md derives it.
ERROR = {"direct": 0.0, "f2": 6e-7, "f4": 2e-6, "f6": 8e-6}
# For any inputs: the error of an element in units of u * max |x| * sum |w|.
WORST = {"f2": 16.0, "f4": 161.0, "f6": 1833.0}
# On AMX no more: what the products leave out is less than an FMA chain rounds away.
for _stated in (ERROR, WORST):
    _stated.update({f"{name}_amx": _stated[name] for name in ("f2", "f4", "f6")})

_exact: ContextVar[bool] = ContextVar("vggfast_exact", default=False)


def on_amx(name: str) -> bool:
    """Whether an algorithm's products are made of bfloat16 on AMX."""
    return name.endswith("_amx")


@dataclass(frozen=True)
class Algorithm:
    """``m`` outputs a tile along each side (0: direct); how the work is cut: csrc/cpu/kernels.h."""

    name: str
    m: int = 0
    tiles: int = 0
    outputs: int = 0

    @property
    def split(self) -> bool:
        """Whether its products are made of bfloat16 on AMX."""
        return on_amx(self.name)


@dataclass(frozen=True)
class Cost:
    """Seconds of a call: ``fixed + each * tiles``."""

    fixed: float
    each: float


@dataclass(frozen=True)
class Entry:
    """What a convolution of c_in to c_out channels costs by algorithm."""

    c_in: int
    c_out: int
    costs: dict[str, Cost]


@contextmanager
def exact(enabled: bool = True) -> Iterator[None]:
    """Within this, convolutions are plain sums: no algorithm that rounds more, such as Winograd.

    It holds for this thread (or asyncio task) and what it calls, ``backward()`` included where that
    is called inside; other threads are not affected. ``exact(False)`` undoes an outer one. It goes
    before ``VGGFAST_CPU_CONV``. Only the CPU's kernels have such algorithms.
    """
    token = _exact.set(enabled)
    try:
        yield
    finally:
        _exact.reset(token)


def how() -> str:
    """One phrase for ``explain``: which algorithms a convolution may run by here."""
    name = _forced()
    if name is None:
        return "Winograd where it is faster"
    by = "exact" if _exact.get() else f"VGGFAST_CPU_CONV={name}"
    return f"{'direct' if name == 'direct' else f'Winograd {name}'}: {by}"


def choose(n: int, h: int, w: int, c_in: int, c_out: int, pool: bool = False) -> Algorithm:
    """The algorithm for a 3x3 convolution of (n, h, w) pixels, c_in to c_out channels.

    Raises:
        InputError: ``VGGFAST_CPU_CONV`` names none.
    """
    name = _forced() or _fastest("fprop", n, h, w, c_in, c_out, pool)
    return _algorithm(name, *a_task(name, tiles_of(name, n, h, w), c_in, c_out))


def choose_wgrad(n: int, h: int, w: int, c_in: int, c_out: int) -> Algorithm:
    """The same for the weights' gradient; ``tiles`` are those of a chunk."""
    name = _forced() or _fastest("wgrad", n, h, w, c_in, c_out, False)
    return _algorithm(name, a_chunk(name, c_in, c_out))


def tiles_of(name: str, n: int, h: int, w: int) -> int:
    """Output tiles of the algorithm on n maps of h x w pixels."""
    m = ALGORITHMS[name]
    return n * -(-h // m) * -(-w // m)


def a_task(name: str, tiles: int, c_in: int, c_out: int) -> tuple[int, int]:
    """How many of a convolution's tiles a thread takes at a time, and how many outputs of these.

    28 are two register tiles of AVX-512, and their transforms fit in the second cache level. A
    small map with many weights is cut in fewer pieces: each reads all the weights from memory.
    AMX multiplies so fast that the weights' way from the third cache level is what takes time from
    128 channels on: more tiles share them, though they then come from there themselves. Measured
    where that level has room for them (an AMX Xeon; 18 MB a thread at 256 channels).
    """
    if not on_amx(name):
        return (64 if tiles <= 256 and c_in * c_out >= 256 * 512 else 28), 64
    if tiles <= 256 or c_in > 256:
        return (64 if tiles <= 256 else 128), 128
    return (32 if c_in <= 64 else 96 if c_in <= 128 else 192), 256


def a_chunk(name: str, c_in: int, c_out: int) -> int:
    """How many tiles the weights' gradient takes at a time: more spare trips of the sums to memory,
    fewer let AMX's transformed tiles stay in the second cache level."""
    return 224 if on_amx(name) and c_in * c_out <= 256 * 256 else 448


def _algorithm(name: str, tiles: int, outputs: int = 0) -> Algorithm:
    if name == "direct":
        return Algorithm(name)
    return Algorithm(name, ALGORITHMS[name], tiles, outputs)


@lru_cache(maxsize=1)
def here() -> list[str]:
    """The algorithms that the kernels of this CPU have."""
    splits = native.module().build_config()["cpu_splits"]
    return [name for name in ALGORITHMS if splits or not on_amx(name)]


def _forced() -> str | None:
    if _exact.get():
        return "direct"
    forced = os.environ.get("VGGFAST_CPU_CONV", "auto")
    if forced not in ("auto", *here()):
        allowed = ", ".join(("auto", *here()))
        raise InputError(f"VGGFAST_CPU_CONV: got {forced!r}, allowed are {allowed}")
    return None if forced == "auto" else forced


@lru_cache(maxsize=4096)
def _fastest(op: str, n: int, h: int, w: int, c_in: int, c_out: int, pool: bool) -> str:
    if min(c_in, c_out) < LEAST_CHANNELS:
        return "direct"
    if pool:
        h, w = h // 2 * 2, w // 2 * 2
    entry = _nearest(table()[op], c_in, c_out)
    seconds = {
        name: cost.fixed + cost.each * tiles_of(name, n, h, w) for name, cost in entry.costs.items()
    }
    return min(seconds, key=lambda name: seconds[name])


def _nearest(entries: list[Entry], c_in: int, c_out: int) -> Entry:
    def distance(e: Entry) -> float:
        return abs(math.log(e.c_in / c_in)) + abs(math.log(e.c_out / c_out))

    return min(entries, key=distance)


@lru_cache(maxsize=1)
def table() -> dict[str, list[Entry]]:
    """The entries of each pass for this machine's instruction set."""
    isa = native.module().build_config()["cpu_isa"]
    measured = json.loads(TABLE.read_text())["isa"]
    # The portable kernels are not measured: what pays on AVX2 is taken to pay there.
    return {
        op: [
            Entry(e["c_in"], e["c_out"], {k: Cost(*e[k]) for k in ALGORITHMS if k in e})
            for e in entries
        ]
        for op, entries in measured[isa if isa in measured else "avx2"].items()
    }


def clear_cache() -> None:
    """Forget past choices: for tests that change the table."""
    _fastest.cache_clear()
