"""How wgrad divides the map among programs: each split has work, rounds are full, bytes are few."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from vggfast.kernels import tiles
from vggfast.kernels.splits import wgrad_splits

CORES = 132


def plan(n: int, side: int, c_in: int, c_out: int) -> tuple[int, int, int]:
    """(programs of a split, splits, boxes) on an H100."""
    tile = tiles.choose("wgrad", 90, 16, (n, side, side), c_out, c_in)
    boxes = prod(tile.counts((n, side, side)))
    programs = 9 // tile.taps * -(-c_out // tile.bc) * -(-c_in // tile.bk)
    return programs, wgrad_splits(tile, programs, boxes, 9 * c_in * c_out, CORES), boxes


@pytest.mark.parametrize("n", [1, 8, 64, 256])
@pytest.mark.parametrize("layer", [(224, 64, 64), (56, 256, 256), (28, 512, 512), (14, 512, 512)])
def test_no_more_splits_than_boxes(n: int, layer: tuple[int, int, int]) -> None:
    _, splits, boxes = plan(n, *layer)
    assert 1 <= splits <= boxes


@pytest.mark.parametrize("layer", [(224, 64, 64), (112, 128, 128), (56, 256, 256), (28, 512, 512)])
def test_rounds_are_full_where_there_is_work(layer: tuple[int, int, int]) -> None:
    programs, splits, _ = plan(256, *layer)
    rounds = programs * splits / CORES
    assert rounds >= 0.94 * -(-programs * splits // CORES)


def test_bytes_of_partial_sums_count() -> None:
    """Where a layer has little work, idle multiprocessors cost less than more partial sums."""
    few, many = plan(1, 14, 512, 512)[1], plan(256, 14, 512, 512)[1]
    assert few < many


def test_bytes_of_shared_memory() -> None:
    tile = tiles.Tile("wgrad", 90, 16, (1, 4, 16), 128, 64, 3, 8)
    assert tile.shared == 3 * 64 * (128 + 64) * 2
    assert replace(tile, taps=3).shared == 3 * 64 * (128 + 3 * 64) * 2
    assert replace(tile, kernel="fprop").shared == 3 * (64 * 64 + 128 * 64) * 2
