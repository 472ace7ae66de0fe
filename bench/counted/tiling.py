"""What the tile of the table makes of a convolution: waste, programs, traffic into shared memory.

Follows kernels/launch/fprop.py and wgrad.py; tests hold them together. A first layer, of at most
three channels, has kernels of its own, which gather: model.py counts those.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vggfast.kernels import tuned
from vggfast.kernels.splits import fprop_splits, wgrad_splits
from vggfast.kernels.table_file import Gpu
from vggfast.kernels.tiles import Tile

from counted.hardware import ELEMENT, Hardware
from vggfast.configs import Layer

MAX_PARTIALS = 1 << 26  # float32 elements of wgrad's workspace


@dataclass(frozen=True)
class Tiling:
    """How a pass is cut. A program does ``steps`` steps, each a product of two tiles in shared
    memory of ``step_bytes`` bytes that takes ``step_flop`` operations, waste included."""

    tile: Tile
    programs: int
    steps: int
    step_flop: int
    step_bytes: int
    useful: float  # share of the operations that are not waste
    splits: int = 1  # programs that share a sum
    sums: int = 0  # float32 partial sums of a split; 0 where no second kernel adds them

    def turns(self, multiprocessors: int) -> int:
        """Programs of the busiest multiprocessor."""
        return -(-self.programs // multiprocessors)

    def fill(self, multiprocessors: int) -> float:
        """Share of all multiprocessors' time that has a program: wave quantisation."""
        return self.programs / (self.turns(multiprocessors) * multiprocessors)


def query(layer: Layer, kind: str, n: int, dtype: str, gpu: Hardware) -> tuned.Query:
    """What the launcher of a pass asks the table."""
    e = ELEMENT[dtype]
    unit = 16 // e  # a row of channels is a multiple of 16 bytes
    pool = layer.pool and kind == "fprop"
    pixels = (n, layer.h // 2 * 2, layer.w // 2 * 2) if pool else (n, layer.h, layer.w)
    c_out, c_in = layer.c_out, layer.c_in
    if kind == "dgrad":
        c_out, c_in = c_in, c_out
    if kind != "wgrad":
        c_in = -(-c_in // unit) * unit
    kernel = "wgrad" if kind == "wgrad" else "fprop"
    return tuned.Query(
        kernel, gpu.arch, 8 * e, pixels, c_out, c_in, kind, pool, dtype,
        Gpu(gpu.capability, gpu.name),
    )  # fmt: skip


def tiled(layer: Layer, kind: str, n: int, dtype: str, gpu: Hardware) -> Tiling:
    """The tiling of a 3x3 convolution's pass by the shipped table."""
    asked = query(layer, kind, n, dtype, gpu)
    tile = tuned.as_shipped(asked)
    boxes, p, e = prod(tile.counts(asked.pixels)), prod(tile.box), ELEMENT[dtype]
    blocks_out, blocks_in = -(-asked.c_out // tile.bc), -(-asked.c_in // tile.bk)
    step_flop = 2 * p * tile.bc * tile.bk
    needed = n * layer.flop
    cores = gpu.multiprocessors
    if kind == "wgrad":
        programs, sums = 9 // tile.taps * blocks_out * blocks_in, 9 * layer.c_out * layer.c_in
        wanted = min(wgrad_splits(tile, programs, boxes, sums, cores), MAX_PARTIALS // sums)
        steps = -(-boxes // max(1, min(wanted, boxes)))
        splits = -(-boxes // steps)
        done = programs * boxes * step_flop * tile.taps
        brought = e * p * (tile.bc + tile.taps * tile.bk)
        return Tiling(
            tile, programs * splits, steps, step_flop * tile.taps, brought, needed / done, splits,
            sums,
        )  # fmt: skip
    programs, steps = boxes * blocks_out, 9 * blocks_in
    done = programs * steps * step_flop
    brought = e * tile.bk * (p + tile.bc)
    each = -(-steps // fprop_splits(tile, programs, steps, cores))
    splits = -(-steps // each)
    sums = programs * p * tile.bc if splits > 1 else 0
    return Tiling(
        tile, programs * splits, each, step_flop, brought, needed / done, splits, sums
    )  # fmt: skip
