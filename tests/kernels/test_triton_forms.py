"""The forms of fprop beside one program a tile: persistent ones, and sums that programs share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_cases import GPU, assert_close, maps, weights
from vggfast.kernels import ops, tiles
from vggfast.kernels.launch import gpu
from vggfast.kernels.splits import fprop_splits

from vggfast import reference
from vggfast.backends import argmax as packed
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()
ARCHES = (gpu.arch(torch.device("cuda")),) if GPU else (80, 90)


def entry(arch: int, **changes: object) -> tiles.Tile:
    """The narrowest 16-bit entry of fprop for ``arch``."""
    fitting = [t for t in tiles.table() if (t.kernel, t.arch, t.bits) == ("fprop", arch, 16)]
    return replace(min(fitting, key=lambda t: (t.bc, t.bk)), **changes)  # type: ignore[arg-type]


def run(tile: tiles.Tile, x: Tensor, w: Tensor, b: Tensor, pool: bool) -> tuple[Tensor, ...]:
    with tiles.forced(tile):
        y, codes = ops.conv3x3(x, w, b, True, pool, pool)
    return (y,) if codes is None else (y, codes)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("split", [2, 3, 5, 100])
def test_split_sums(split: int, arch: int, device: torch.device) -> None:
    """Forward, pool, argmax and dx of sums shared by several programs, odd sizes included."""
    tile = entry(arch, split=split)
    x = maps((2, 50, 5, 35), torch.float16, device, seed=1)
    w, b = weights(71, 50, torch.float16, device, seed=1)
    (y,) = run(tile, x, w, b, False)
    wide = (x.double(), w.double(), b.double())
    theirs, _ = EAGER.conv3x3(x, w, b, True, False, False)
    assert_close("y", y, theirs, reference.conv3x3(*wide, relu=True), 9 * 50)
    pooled, codes = run(tile, x, w, b, True)
    expected, indices = F.max_pool2d(y, 2, return_indices=True)
    assert torch.equal(pooled, expected)
    assert torch.equal(codes, packed.pack(indices, 35))
    assert all(map(torch.equal, run(tile, x, w, b, True), (pooled, codes))), "another result"

    grad = maps((2, 71, 5, 35), torch.float16, device, seed=2)
    needs = (True, False, False)
    with tiles.forced(tile):
        dx, _, _ = ops.conv3x3_backward(grad, x, w, None, None, needs)
    theirs, _, _ = EAGER.conv3x3_backward(grad, x, w, None, None, False, False, needs)
    oracle, _, _ = EAGER.conv3x3_backward(grad.double(), *wide[:2], None, None, False, False, needs)
    assert_close("dx", dx, theirs, oracle, 9 * 71)


def test_splits_fill_the_gpu_once() -> None:
    tile = entry(ARCHES[-1])
    assert fprop_splits(tile, 8, 72, 132) == 16  # 512 channels at 14 x 14, batch 1
    assert fprop_splits(tile, 70, 72, 132) == 1
    assert fprop_splits(tile, 1, 9, 132) == 2  # four steps a program at least
    assert fprop_splits(tile, 1, 3, 132) == 1
    assert fprop_splits(replace(tile, split=3), 1000, 72, 132) == 3


@pytest.mark.parametrize("pool", [False, True])
def test_persistent_programs(pool: bool, device: torch.device) -> None:
    """More tiles than programs, channels in two blocks: every program takes several."""
    tile = entry(ARCHES[-1], split=1)
    x = maps((6, 24, 6, 40), torch.float16, device, seed=3)
    w, b = weights(70, 24, torch.float16, device, seed=3)
    expected = run(tile, x, w, b, pool)
    again = run(replace(tile, persistent=True), x, w, b, pool)
    assert tile.programs((6, 6, 40), 70) > gpu.cores(device) or GPU
    assert all(map(torch.equal, again, expected))


def test_persistent_only_where_there_is_a_next_tile() -> None:
    few = tiles.choose("fprop", 90, 16, (1, 14, 14), 512, 512)
    many = tiles.choose("fprop", 90, 16, (64, 56, 56), 256, 256)
    assert not few.persistent
    assert many.persistent
    assert many.programs((64, 56, 56), 256) >= 264
