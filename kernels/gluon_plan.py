"""How the Gluon convolution cuts a tile and fills shared memory: for its launch, the compile check
and the tests. Needs neither torch nor, to be imported, a Triton that has Gluon.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from math import prod
from typing import Any

from . import tiles

REGISTERS = 168  # a thread, at the launch: what 65536 make for 384 threads, in steps of 8
WARPS = 4  # of the launch, one warpgroup; the kernel makes the others
_SHARED = 232448 - 1024  # bytes on sm_90, less some for barriers and alignment
_BK = 64  # channels of a step: 128 bytes, a row of the pattern in which tensor cores read
# What two warpgroups of 64 channels x 256 pixels make of a tile of (channels, pixels).
_SPLITS = {(128, 256): "channels", (64, 512): "pixels", (64, 256): "tiles"}


@lru_cache(maxsize=1)
def absent() -> str | None:
    """Why the installed Triton cannot compile the kernel, or None: it can."""
    import triton

    try:
        import_module(".gluon3x3", __package__)
    except (ImportError, AttributeError) as error:
        return f"Triton {triton.__version__} has no Gluon that fits: {error}"
    return None


@lru_cache(maxsize=1)
def taps() -> int:
    """Taps that share an x buffer: 3, or 1 where Gluon refuses views that overlap."""
    import triton

    major, minor = (int(part) for part in triton.__version__.split(".")[:2])
    return 3 if (major, minor) < (3, 8) else 1


@dataclass(frozen=True)
class Plan:
    """Constants of conv3x3_gluon_kernel for a tile, and the boxes of its operands."""

    constants: dict[str, Any]
    x_box: tuple[int, ...]
    w_box: tuple[int, ...]
    y_box: tuple[int, ...]
    groups_per_block: int  # groups of each 64 input channels


def plan(tile: tiles.Tile, pool: bool, share: int | None = None) -> Plan:
    """The plan of a tile of form "gluon"; ``share``: taps that share a buffer, by default taps().

    Raises:
        ValueError: a tile that the kernel cannot serve; the message says what is wrong.
    """
    (ni, th, tw), pixels = tile.box, prod(tile.box)
    split = _SPLITS.get((tile.bc, pixels))
    if tile.form != "gluon" or split is None or tile.bk != _BK or tile.bits != 16 or ni * tw % 8:
        raise ValueError(
            f"tile: got {tile.name} of form {tile.form!r}, allowed are 16-bit ones of form 'gluon' "
            f"with bk = {_BK}, (bc, pixels) in {sorted(_SPLITS)}, a multiple of 8 images x columns"
        )
    share = taps() if share is None else share
    rb = 2 if ni == 1 else 1
    part_h = th // 2 if split == "pixels" else th
    y_box = (ni, part_h // 2, tw // 2, 64) if pool else (ni, part_h, tw, 64)
    x_bytes = (th + share - 1) * ni * tw * _BK * 2
    w_bytes = tile.bc * _BK * 2
    xbufs, wbufs = _buffers(_SHARED - 2 * 2 * prod(y_box), x_bytes, w_bytes, share, tile.stages)
    if wbufs < 2:
        raise ValueError(f"tile: {tile.name} leaves no room for two buffers of weights")
    constants = {
        "NI": ni, "TH": th, "TW": tw, "RB": rb, "SPLIT": split, "TAPS": share,
        "XBUFS": xbufs, "WBUFS": wbufs,
    }  # fmt: skip
    return Plan(constants, (ni, rb, tw, _BK), (64, _BK), y_box, 9 // share)


def _buffers(room: int, x: int, w: int, share: int, most: int) -> tuple[int, int]:
    """(x buffers, weight buffers) for ``room`` bytes; at most ``most`` of x where taps share one.

    Two x buffers of three taps are six steps ahead; a third is worth it only while four buffers of
    weights remain, which are what runs out first.
    """
    if share == 1:
        both = min(6, room // (x + w))
        return both, both
    while most > 2 and (room - most * x) // w < 4:
        most -= 1
    return most, min(8, (room - most * x) // w)


def layout(box: tuple[int, ...]) -> Any:
    """The layout in shared memory of a box of 16-bit elements whose last axis is 64 long."""
    from triton.experimental.gluon import language as gl

    return gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=len(box))
