"""Launches of the weight gradient: partial sums over splits of the map, then their sum in order."""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
import triton
from torch import Tensor

from .. import precision, tiles
from ..wgrad3x3 import conv3x3_wgrad_kernel, conv3x3_wgrad_sum_kernel
from .gpu import choose_tile, cores, share
from .memory import operand, unit, workspace

_SHARED = 227 << 10  # bytes of a multiprocessor (H100)
_MAX_PARTIALS = 1 << 26  # float32 elements of the workspace: 256 MB
# What decides between more splits and fewer bytes of partial sums, for an H100; an A100 has less of
# both in about the same proportion.
_CORE_FLOPS, _BYTES = 4.5e12, 3e12  # a second, of one multiprocessor and of memory


def wgrad(x: Tensor, dz: Tensor, w: Tensor) -> Tensor:
    """x (N, H, W, padded C_in), dz (N, H, W, padded C_out) -> dw like w."""
    n, h, width, _ = x.shape
    c_out, c_in = w.shape[:2]
    dw = torch.empty((c_out, c_in, 3, 3), dtype=w.dtype, device=w.device)
    if x.numel() == 0:
        return dw.zero_()
    tile = choose_tile("wgrad", x, (n, h, width), c_out, c_in)
    ni, th, tw = tile.box
    _, tiles_h, tiles_w = tile.counts((n, h, width))
    boxes = prod(tile.counts((n, h, width)))
    blocks = triton.cdiv(c_out, tile.bc) * triton.cdiv(c_in, tile.bk)
    programs = 9 // tile.taps * blocks
    wanted = tile.split or _splits(tile, programs, boxes, 9 * c_out * c_in, cores(x.device))
    per_split, splits = share(boxes, min(wanted, _MAX_PARTIALS // (9 * c_out * c_in)))
    partial = workspace((splits, 9, c_out, c_in), x, "wgrad")
    conv3x3_wgrad_kernel[(programs, splits)](
        operand(x, tile, (*tile.box, tile.bk)),
        operand(dz, tile, (*tile.box, tile.bc)),
        partial,
        n, h, width, x.shape[3] // unit(x), dz.shape[3] // unit(x), c_in, c_out,
        tiles_h, tiles_w, boxes, per_split,
        NI=ni, TH=th, TW=tw, BC=tile.bc, BK=tile.bk, TAPS=tile.taps, TMA=tile.arch >= 90,
        PRECISION=precision.of(x.dtype), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    pairs, block = c_out * c_in, 1024
    conv3x3_wgrad_sum_kernel[(triton.cdiv(pairs, block), 9)](partial, dw, pairs, splits, B=block)
    return dw


@lru_cache(maxsize=1024)
def _splits(tile: tiles.Tile, programs: int, boxes: int, sums: int, cores: int) -> int:
    """The number of splits of the map that takes the least time by count.

    Too few leave multiprocessors without work in the last round, too many write and read ``sums``
    float32 partial sums each. 512 to 512 channels make 144 programs for 132 multiprocessors: in
    one split the second round would leave 120 of them idle.
    """
    resident = cores * max(1, min(_SHARED // tile.shared, 1024 // (32 * tile.warps)))
    flops = 2 * prod(tile.box) * tile.bc * tile.bk * tile.taps

    def seconds(splits: int) -> float:
        rounds = -(-programs * splits // resident)
        work = rounds * (resident // cores) * -(-boxes // splits) * flops / _CORE_FLOPS
        return work + 8 * sums * splits / _BYTES

    most = max(1, min(boxes, 4 * resident // programs + 1))
    return min(range(1, most + 1), key=seconds)
