"""The tile table: its rule, its coverage of VGG's layers, and every entry run once."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch
from triton_cases import GPU, assert_close, maps, weights
from vggfast.kernels import ops, tiles
from vggfast.kernels.launch import gluon, gpu

from vggfast import reference
from vggfast.backends.eager import EagerBackend
from vggfast.configs import conv_layers

EAGER = EagerBackend()
# A GPU runs its own generation's entries; the interpreter runs all, descriptors and pointers.
# Those of e4m3 and of the convolution in CUDA C++ have files of their own.
ENTRIES = [
    t for t in tiles.table()
    if t.bits > 8 and t.form != "cuda" and (not GPU or t.arch == gpu.arch(torch.device("cuda")))
]  # fmt: skip


@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
def test_every_entry_computes(tile: tiles.Tile, device: torch.device) -> None:
    """A map that no box divides, with a part box on each side that is larger than one box."""
    reason = gluon.unavailable(device) if tile.form == "gluon" else None
    if reason is not None:
        pytest.skip(reason)  # test_triton_gluon.py runs its source in a model
    tile = replace(tile, split=1)
    dtype = torch.float16 if tile.bits == 16 else torch.float32
    n = min(tile.box[0] + 1, 3)
    h, w = (min(side + 1, 7) for side in tile.box[1:])
    c_in = 3 if tile.kernel.startswith("first") else 24
    x = maps((n, c_in, h, w), dtype, device, seed=1)
    weight, bias = weights(12, c_in, dtype, device, seed=1)
    grad = maps((n, 12, h, w), dtype, device, seed=2)
    wide = (x.double(), weight.double(), bias.double())
    with tiles.forced(tile):
        if tile.kernel in ("fprop", "first"):
            for pool in (False, True)[: 1 + tile.pools]:
                y, _ = ops.conv3x3(x, weight, bias, True, pool, pool)
                theirs, _ = EAGER.conv3x3(x, weight, bias, True, pool, False)
                oracle = reference.conv3x3(*wide, relu=True, pool=pool)
                assert_close(f"y, pool={pool}", y, theirs, oracle, 9 * c_in)
            return
        every = (False, False, (False, True, False))
        _, dw, _ = ops.conv3x3_backward(grad, x, weight, None, None, every[2])
    _, theirs, _ = EAGER.conv3x3_backward(grad, x, weight, None, None, *every)
    _, oracle, _ = EAGER.conv3x3_backward(grad.double(), *wide[:2], None, None, *every)
    assert_close("dw", dw, theirs, oracle, n * h * w)


@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("kernel", ["fprop", "wgrad"])
def test_vgg_layers_fit_their_tiles(kernel: str, arch: int) -> None:
    """At batch 32, 224x224, 16 bits: no layer of E but the first wastes more than a tile's edge."""
    limit = 1.0 if arch == 90 else 1.15  # Ampere's wide maps have no box of 8 columns
    for layer in conv_layers("E")[1:]:
        pixels = (32, layer.h, layer.w)
        tile = tiles.choose(kernel, arch, 16, pixels, layer.c_out, layer.c_in)
        used = prod(pixels) * layer.c_out * layer.c_in
        assert tile.work(pixels, layer.c_out, layer.c_in) <= limit * used, (layer, tile)


def test_first_of_equals_is_chosen() -> None:
    pixels = (32, 224, 224)  # every box of the table divides it
    tile = tiles.choose("fprop", 90, 16, pixels, 128, 64)
    assert tile == next(t for t in tiles.table() if (t.kernel, t.arch) == ("fprop", 90))


def test_forced_ends_with_its_block() -> None:
    one, other = tiles.table()[:2]
    assert one.kernel == other.kernel == "fprop"
    free = tiles.choose("fprop", 90, 16, (1, 7, 7), 512, 512)
    with tiles.forced(one):
        with tiles.forced(other):
            assert tiles.choose("fprop", 90, 16, (1, 7, 7), 512, 512) == other
        assert tiles.choose("fprop", 90, 16, (1, 7, 7), 512, 512) == one
    assert tiles.choose("fprop", 90, 16, (1, 7, 7), 512, 512) == free


def test_names_and_entries_are_unique() -> None:
    assert len({t.name for t in tiles.table()}) == len(tiles.table())


@pytest.mark.parametrize("t", tiles.table(), ids=lambda t: t.name)
def test_entry_meets_what_the_kernels_assume(t: tiles.Tile) -> None:
    if t.form == "cuda":
        assert (t.bc, t.bk) in ((128, 64), (64, 64)), "what a block of that kernel serves at a time"
        return
    for size in (*t.box, t.bc, t.bk):
        assert size & (size - 1) == 0, "Triton's blocks are powers of two"
    if t.kernel.startswith("first"):
        assert t.bk >= 28, "27 products and the column of db are one step"
        # Else a pixel's values are spread over threads, and what depends on k is no constant.
        assert t.box[0] * t.box[1] * t.box[2] >= 32 * t.warps
    if t.form == "flat":
        assert t.box[:2] == (1, 1), "a box is a run of rows"
        assert t.box[2] % 32 == 0, "which begins with a word of the rows' flags"
        assert t.box[2] <= 256, "TMA's boxes have no longer side"
        assert not t.pools, "a window is spread over tiles"
        return
    if t.kernel in ("fprop", "first", "e4m3"):
        assert t.box[1] % 2 == 0, "a box holds whole pool windows"
        assert t.box[2] % 2 == 0, "a box holds whole pool windows"
        assert t.bc % 4 == 0, "a byte of the argmax holds four channels"
