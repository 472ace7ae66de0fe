"""What the tile of the table makes of a convolution: waste, programs, traffic into shared memory.

How a call is divided is kernels/division.py's; what a launcher asks is followed here, and tests
hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vggfast.kernels import gluon_plan, tuned
from vggfast.kernels.division import divide
from vggfast.kernels.first_plan import CHANNELS
from vggfast.kernels.table_file import Gpu
from vggfast.kernels.tiles import Tile

from counted.hardware import ELEMENT, Hardware
from counted.work import ALONE, Place
from vggfast.configs import Layer

_SHARE = 3  # taps that share an x buffer of Gluon's kernel, with Triton 3.6 and 3.7


@dataclass(frozen=True)
class Tiling:
    """How a pass is cut. A program does ``steps`` steps, each a product of two tiles in shared
    memory of ``step_bytes`` bytes that takes ``step_flop`` operations, waste included."""

    tile: Tile
    grid: tuple[int, ...]  # programs launched
    programs: int  # pieces of work: tiles, or parts of them where a sum is split
    steps: int
    step_flop: int
    step_bytes: int
    useful: float  # share of the operations that are not waste
    splits: int  # parts of each sum
    sums: int  # float32 partial sums of a split; 0 where no second kernel adds them
    boxes: int  # of pixels

    def turns(self, multiprocessors: int) -> int:
        """Programs of the busiest multiprocessor."""
        return -(-self.programs // multiprocessors)

    def fill(self, multiprocessors: int) -> float:
        """Share of all multiprocessors' time that has a program: wave quantisation."""
        return self.programs / (self.turns(multiprocessors) * multiprocessors)


def few(layer: Layer, kind: str) -> bool:
    """Whether a pass has the kernels of a first layer, kernels/launch/first.py."""
    return layer.op == "conv3x3" and layer.c_in <= CHANNELS and kind in ("fprop", "wgrad")


def query(
    layer: Layer, kind: str, n: int, dtype: str, gpu: Hardware, place: Place = ALONE
) -> tuned.Query:
    """What the launcher of a pass asks the table."""
    e = ELEMENT[dtype]
    unit = 16 // e  # a row of channels is a multiple of 16 bytes
    pixels, pool = (n, layer.h, layer.w), layer.pool and kind == "fprop"
    halves = (n, layer.h // 2, layer.w // 2)
    kernel = op = kind
    c_out, c_in = layer.c_out, layer.c_in
    if pool:
        pixels = (n, 2 * halves[1], 2 * halves[2])
    if few(layer, kind):
        kernel = op = "first" if kind == "fprop" else "first_wgrad"
        if kind == "wgrad" and layer.pool and place.top:  # it reads the pooled gradient
            pixels, pool = halves, True
    elif kind == "dgrad":
        c_out, c_in = c_in, -(-c_out // unit) * unit
        kernel = "fprop" if place.below is None else "dgrad"
        if place.below is not None and place.below.pool:
            pixels, pool = (n, (place.below.h + 1) // 2, (place.below.w + 1) // 2), True
    elif kind == "fprop":
        c_in = -(-c_in // unit) * unit
    return tuned.Query(
        kernel, gpu.arch, 8 * e, pixels, c_out, c_in, op, pool, dtype,
        Gpu(gpu.capability, gpu.name),
    )  # fmt: skip


def tiled(
    layer: Layer, kind: str, n: int, dtype: str, gpu: Hardware, place: Place = ALONE
) -> Tiling:
    """The tiling of a 3x3 convolution's pass by the shipped table."""
    asked = query(layer, kind, n, dtype, gpu, place)
    tile = tuned.as_shipped(asked)
    cut = divide(tile, asked, gpu.multiprocessors)
    done = 2 * cut.macs * cut.tiles * cut.total
    return Tiling(
        tile, cut.grid, cut.parts, cut.steps, 2 * cut.macs,
        _step_bytes(tile, asked, ELEMENT[dtype], place), n * layer.flop / done, cut.splits,
        cut.sums, prod(tile.counts(asked.pixels)),
    )  # fmt: skip


def _step_bytes(tile: Tile, asked: tuned.Query, e: int, place: Place) -> int:
    """Bytes that come from the L2 for a step."""
    p = prod(tile.box)
    ni, th, tw = tile.box
    if tile.kernel == "first":  # a box with its rim, from which a program gathers; weights stay
        return e * asked.c_in * ni * (th + 2) * (tw + 2)
    if tile.kernel == "first_wgrad":
        # dz; or the gradient and y, once a box, which behind a pool has four steps of pixels.
        if not asked.pool:
            rim = e * asked.c_in * ni * (th + 2) * (tw + 2)
            return rim + e * p * tile.bc * (2 if place.top else 1)
        rim = e * asked.c_in * ni * (2 * th + 2) * (2 * tw + 2)
        return (rim + p * tile.bc * 2 * e + p * tile.bc // 4) // 4
    if tile.kernel == "wgrad":
        return e * p * (tile.bc + tile.taps * tile.bk)
    if tile.form == "gluon":
        share = gluon_plan.plan(tile, asked.pool, _SHARE).constants["TAPS"]
        rows = ni * (th + share - 1) * tw
        return e * tile.bk * (-(-rows // share) + tile.bc)
    if tile.form == "cuda":  # x with its halo, every sector twice, serves nine taps
        return e * tile.bk * (p // 3 + tile.bc // tile.cluster)
    return e * tile.bk * (p + tile.bc)
