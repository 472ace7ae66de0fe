"""Launches of the padded-flat form: maps into it, and convolutions on tiles of form "flat".

fprop.py hands single calls over: their map is copied into the form, and the result is a plain map
again. In a run of layers (:func:`run`) only the first map is copied and only the last one plain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from .. import flat_plan, precision, tiles
from ..flat3x3 import conv3x3_flat_kernel, to_flat_kernel
from .gpu import arch, cores
from .memory import aligned, box_operand, unit
from .weights import tap_rows

_BLOCK = 2048  # elements a program of the copy holds at a time

Layer = tuple[Tensor, Tensor | None, bool]  # w (C_out, C_in, 3, 3), b (C_out,) or None, relu


@dataclass(frozen=True)
class FlatMap:
    """A map (N, H, W, C) in the padded-flat form of flat3x3.py."""

    rows: Tensor  # (N (H + 1) (W + 1), C padded to 16 bytes); zero but for pixels' C channels
    pixels: Tensor  # int32, a bit a row: 1 for a pixel
    n: int
    h: int
    w: int
    c: int

    def plain(self) -> Tensor:
        """The map (N, H, W, C), a view of the rows that are pixels."""
        whole = self.rows.view(self.n, self.h + 1, self.w + 1, self.rows.shape[1])
        return whole[:, : self.h, : self.w, : self.c]


def to_flat(x: Tensor) -> FlatMap:
    """x (N, H, W, C), contiguous, in the padded-flat form, by one launch."""
    n, h, w, c = x.shape
    x = aligned(x)
    count, c_pad = flat_plan.rows(n, h, w), x.shape[3]
    rows = torch.empty((count, c_pad), dtype=x.dtype, device=x.device)
    pixels = torch.empty((triton.cdiv(count, 32),), dtype=torch.int32, device=x.device)
    if count:
        bc = min(64, triton.next_power_of_2(c_pad))
        p = _BLOCK // bc
        to_flat_kernel[(triton.cdiv(count, p), triton.cdiv(c_pad, bc))](
            x, rows, pixels, count, h, w, c_pad // unit(x), P=p, BC=bc
        )
    return FlatMap(rows, pixels, n, h, w, c)


def convolve(
    x: FlatMap,
    rows: Tensor,
    c_out: int,
    b: Tensor | None,
    tile: tiles.Tile,
    relu: bool,
    mirror: bool,
    plain: Tensor | None = None,
) -> FlatMap:
    """relu?(conv + b) of a flat map: a new flat map, or ``plain`` filled and ``x`` returned.

    rows (9 * c_out, padded C) are packed weights; ``mirror``: their taps point the other way;
    plain (N, H, W, padded c_out). The same bits come either way.

    Raises:
        RuntimeError: the tile cannot serve this map; the message says why.
    """
    p = tile.box[2]
    reason = flat_plan.refused(x.n, x.h, x.w, p)
    if tile.form != "flat":
        reason = f"its form is {tile.form!r}, a flat map needs 'flat'"
    if reason is not None:
        raise RuntimeError(f"tile {tile.name}: {reason}")
    per16 = unit(x.rows)
    y = plain
    if y is None:
        c_pad = -(-c_out // per16) * per16
        y = torch.empty((x.rows.shape[0], c_pad), dtype=x.rows.dtype, device=x.rows.device)
    if y.numel():
        tma = tile.arch >= 90
        flat: dict[str, Any] = {"FLAT": plain is None, "FILL": c_out % per16 != 0}
        programs = tile.programs((x.n, x.h, x.w), c_out)
        started = min(programs, cores(y.device)) if tile.persistent else programs
        conv3x3_flat_kernel[(started,)](
            box_operand(x.rows, tma, (p, tile.bk)), box_operand(rows, tma, (tile.bc, tile.bk)), b,
            box_operand(y, tma, (p, tile.bc)) if plain is None else y,
            x.pixels if plain is None else None,
            x.rows.shape[0], x.h, x.w, x.rows.shape[1] // per16, y.shape[-1] // per16, c_out,
            flat_plan.reciprocal(x.w + 1), flat_plan.reciprocal(x.h + 1), programs,
            P=p, BC=tile.bc, BK=tile.bk, RELU=relu, **flat, MIRROR=mirror,
            PRECISION=precision.of(y.dtype), PERSISTENT=tile.persistent, TMA=tma,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    return FlatMap(y, x.pixels, x.n, x.h, x.w, c_out) if plain is None else x


def launch(
    x: Tensor,
    rows: Tensor,
    b: Tensor | None,
    y: Tensor,
    c_out: int,
    tile: tiles.Tile,
    relu: bool,
    pool: bool,
    mirror: bool,
) -> None:
    """Fill y (N, H, W, padded C_out) from x (N, H, W, padded C_in) by way of a flat copy of x.

    Raises:
        RuntimeError: the tile cannot serve the call; the message says why.
    """
    if pool:
        # The lines of a window are W + 1 rows apart, mostly in different tiles.
        raise RuntimeError(f"tile {tile.name}: the padded-flat form has no pool in its epilogue")
    convolve(to_flat(x), rows, c_out, b, tile, relu, mirror, y)


def run(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """x (N, H, W, C) through convolutions one after the other, flat in between: (N, H, W, C_out).

    A forced tile serves every layer; else the flat tile of least waste does.

    Raises:
        ValueError: no layers, or one whose weights or bias do not fit what comes before it.
        RuntimeError: a map that the form does not serve.
    """
    _check(x, layers)
    flat = to_flat(x)
    for w, b, relu in layers[:-1]:
        c_out = w.shape[0]
        flat = convolve(flat, tap_rows(w, False), c_out, b, _tile(flat, c_out), relu, False)
    w, b, relu = layers[-1]
    c_out, per16 = w.shape[0], unit(x)
    size = (*x.shape[:3], -(-c_out // per16) * per16)
    y = torch.empty(size, dtype=x.dtype, device=x.device)
    convolve(flat, tap_rows(w, False), c_out, b, _tile(flat, c_out), relu, False, y)
    return y[..., :c_out].contiguous()


def _check(x: Tensor, layers: Sequence[Layer]) -> None:
    if not layers:
        raise ValueError("layers: got none, allowed is one or more")
    c = x.shape[3]
    for i, (w, b, _) in enumerate(layers):
        if w.ndim != 4 or tuple(w.shape[1:]) != (c, 3, 3) or w.dtype != x.dtype:
            got, wanted = f"{w.dtype} {tuple(w.shape)}", f"{x.dtype} (C_out, {c}, 3, 3)"
            raise ValueError(f"layers[{i}]: got weights {got}, allowed are {wanted}")
        c = w.shape[0]
        if b is not None and (tuple(b.shape) != (c,) or b.dtype != w.dtype):
            got, wanted = f"{b.dtype} {tuple(b.shape)}", f"{w.dtype} ({c},) or None"
            raise ValueError(f"layers[{i}]: got a bias {got}, allowed are {wanted}")


def _tile(x: FlatMap, c_out: int) -> tiles.Tile:
    bits, device = 8 * x.rows.element_size(), x.rows.device
    return tiles.choose(
        "fprop", arch(device), bits, (x.n, x.h, x.w), c_out, x.rows.shape[1],
        bits == 32 and precision.of(x.rows.dtype) == "ieee", form="flat",
    )  # fmt: skip
