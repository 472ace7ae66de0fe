"""What the tile of the table makes of a convolution: waste, programs, traffic into shared memory.

Follows kernels/launch/fprop.py and wgrad.py; tests hold the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from vggfast.kernels import tuned
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
    splits: int = 1  # partial sums of wgrad

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
    if kind == "wgrad":
        programs = 9 * blocks_out * blocks_in
        most = min(
            2 * gpu.multiprocessors // programs, MAX_PARTIALS // (9 * layer.c_out * layer.c_in)
        )
        steps = -(-boxes // max(1, min(most, boxes)))
        splits = -(-boxes // steps)
        done = programs * boxes * step_flop
        return Tiling(
            tile, programs * splits, steps, step_flop, e * p * (tile.bc + tile.bk), needed / done,
            splits,
        )  # fmt: skip
    programs, steps = boxes * blocks_out, 9 * blocks_in
    done = programs * steps * step_flop
    return Tiling(tile, programs, steps, step_flop, e * tile.bk * (p + tile.bc), needed / done)
