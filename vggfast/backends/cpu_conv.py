"""Which algorithm the CPU kernels convolve with, by shape alone, and how far each rounds.

``direct`` is an implicit GEMM, ``f4`` and ``f6`` are Winograd F(4x4, 3x3) and F(6x6, 3x3), which
need 4 and 5 times fewer multiplications. ``with exact():`` keeps to ``direct``;
``VGGFAST_CPU_CONV`` forces any of them; the default is ``auto``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from vggfast.errors import InputError

ALGORITHMS = ("direct", "f4", "f6")

# Relative rms error against float64 that a Winograd result may show beside the direct kernel's, for
# inputs whose terms do not cancel more than random ones do: docs/numerics.md derives it.
ERROR = {"direct": 0.0, "f4": 2e-6, "f6": 8e-6}
# For any inputs: the error of an element in units of u * max |x| * sum |w|.
WORST = {"f4": 160.0, "f6": 1833.0}

_exact: ContextVar[bool] = ContextVar("vggfast_exact", default=False)


@dataclass(frozen=True)
class Algorithm:
    """``m`` outputs a tile along each side (0: direct), and output tiles a task or a chunk."""

    name: str
    m: int = 0
    tiles: int = 0


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
    name = _forced() or _fastest(n, h, w, c_in, c_out, pool)
    # Measured on 2 cores (docs/design.md): with many weights, they should stream by seldom.
    few = c_in * c_out <= 128 * 256
    return _algorithm(name, 28 if few else 112 if name == "f4" else 56)


def choose_wgrad(n: int, h: int, w: int, c_in: int, c_out: int) -> Algorithm:
    """The same for the weights' gradient, where F(6x6) was never clearly the faster one.

    Longer chunks would be faster by 2 to 10 % and round more.
    """
    fastest = _fastest(n, h, w, c_in, c_out, False, ("f4",))
    return _algorithm(_forced() or fastest, 224)


def _algorithm(name: str, tiles: int) -> Algorithm:
    return Algorithm(name) if name == "direct" else Algorithm(name, int(name[1]), tiles)


def _forced() -> str | None:
    if _exact.get():
        return "direct"
    forced = os.environ.get("VGGFAST_CPU_CONV", "auto")
    if forced not in ("auto", *ALGORITHMS):
        allowed = ", ".join(("auto", *ALGORITHMS))
        raise InputError(f"VGGFAST_CPU_CONV: got {forced!r}, allowed are {allowed}")
    return None if forced == "auto" else forced


def _fastest(
    n: int,
    h: int,
    w: int,
    c_in: int,
    c_out: int,
    pool: bool,
    winograd: tuple[str, ...] = ("f4", "f6"),
) -> str:
    """Counts multiplications for one pair of channels.

    Winograd's count 1.3 times, because the tiles travel through memory, and as if there were 16
    (F(6x6): 24) more tiles, because the transformed weights do too. With few channels the
    transforms cost more than the multiplications they save.
    """
    if min(c_in, c_out) < 16:
        return "direct"
    if pool:
        h, w = h // 2 * 2, w // 2 * 2
    cost = {"direct": 9.0 * n * h * w}
    for name in winograd:
        m = int(name[1])
        tiles = n * -(-h // m) * -(-w // m)
        cost[name] = 1.3 * (m + 2) ** 2 * (tiles + 4 * m)
    return min(cost, key=lambda name: cost[name])
