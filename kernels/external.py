"""The convolution that is made outside of this package: tiles of form "cuda".

It is CUDA C++ in vggfast's native extension, which this package does not know. Whoever has it
hands it over (:func:`offer`); then tables may name it, the tuner times it beside Triton's forms,
and launch/fprop.py gives it the calls that it won. Needs torch only for its types.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import tiles

if TYPE_CHECKING:
    from torch import Tensor

# x (N, C_in, H, W) and weights, bias, relu, pool, save_argmax, rotated (the weights, for dgrad),
# cluster -> y and the packed argmax or None, all as ops.conv3x3.
Run = Callable[
    ["Tensor", "Tensor", "Tensor | None", bool, bool, bool, bool, int],
    "tuple[Tensor, Tensor | None]",
]


@dataclass(frozen=True)
class Kernel:
    """``absent``: why it cannot run on this machine at all, or None."""

    absent: Callable[[], str | None]
    run: Run


_offered: Kernel | None = None


def offer(kernel: Kernel | None) -> None:
    """From now on tiles of form "cuda" run by ``kernel``; None: by nothing."""
    global _offered
    _offered = kernel


def absent() -> str | None:
    """Why no tile of form "cuda" can run, or None."""
    if _offered is None:
        return "nobody has offered a kernel for tiles of form 'cuda'"
    return _offered.absent()


def fits(tile: tiles.Tile, c_out: int, c_in: int) -> bool:
    """Whether a tile of form "cuda" is the kernel's own for these channels.

    They come in multiples of 64, and a block serves 128 outputs where 128 divides them.
    """
    return c_in % 64 == 0 and c_out % 64 == 0 and tile.bc == (128 if c_out % 128 == 0 else 64)


def run(
    tile: tiles.Tile,
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    rotated: bool,
) -> tuple[Tensor, Tensor | None]:
    """y (N, C_out, H, W) or pooled, and the argmax or None, by a tile of form "cuda".

    Raises:
        RuntimeError: nobody has offered the kernel, or what it raises where it cannot run.
    """
    if _offered is None:
        raise RuntimeError(f"tile {tile.name}: {absent()}")
    return _offered.run(x, w, b, relu, pool, save_argmax, rotated, tile.cluster)
