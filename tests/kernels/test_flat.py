"""The padded-flat form of the 3x3 convolution: its maps, its results, runs of layers, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_cases import DTYPES, GPU, assert_close, double, maps, name, weights
from vggfast.kernels import flat_plan, ops, precision, table_file, tiles, tuned
from vggfast.kernels.launch import flat, gpu
from vggfast.kernels.launch.weights import tap_rows
from vggfast.kernels.table_file import Entry, Gpu, Shape, Table

from vggfast import reference
from vggfast.backends.eager import EagerBackend
from vggfast.tune import search

EAGER = EagerBackend()
ARCHES = (gpu.arch(torch.device("cuda")),) if GPU else (80, 90)
ENTRIES = [t for t in tiles.table() if t.form == "flat" and t.arch in ARCHES]
# (N, C_in, C_out, H, W): one pixel; channels that fill no 16 bytes; lines shorter and longer than a
# tile; maps of fewer rows than one; images that begin within a tile; two blocks of channels.
SIZES = (
    (1, 1, 1, 1, 1),
    (2, 5, 7, 3, 1),
    (1, 12, 20, 1, 7),
    (3, 24, 68, 9, 6),
    (1, 72, 8, 14, 14),
    (1, 8, 132, 5, 33),
    (40, 8, 8, 2, 2),
    (2, 4, 4, 2, 301),
)


def entry(dtype: torch.dtype) -> tiles.Tile:
    """The last, narrowest entry of the tensor cores for a dtype."""
    key = (ARCHES[-1], torch.finfo(dtype).bits, False)
    return [t for t in ENTRIES if (t.arch, t.bits, t.ieee) == key][-1]


def channels_last(y: Tensor) -> Tensor:
    return y.permute(0, 3, 1, 2)


def flat_conv(
    tile: tiles.Tile, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, mirror: bool = False
) -> tuple[flat.FlatMap, Tensor]:
    """The flat and the plain result (N, C, H, W) of one convolution; the flat one is checked."""
    c_out = w.shape[1 if mirror else 0]
    with gpu.on(x):
        given = flat.to_flat(x.permute(0, 2, 3, 1))
        rows = tap_rows(w, mirror)
        y = flat.convolve(given, rows, c_out, b, tile, relu, mirror)
        plain = torch.empty(
            (*x.permute(0, 2, 3, 1).shape[:3], y.rows.shape[1]), dtype=x.dtype, device=x.device
        )
        flat.convolve(given, rows, c_out, b, tile, relu, mirror, plain)
    check_border(y)
    return y, channels_last(plain[..., :c_out])


def check_border(y: flat.FlatMap) -> None:
    """What is no pixel's channel is zero, and there is one row and column of it for each image."""
    assert y.rows.shape[0] == y.n * (y.h + 1) * (y.w + 1)
    whole = y.rows.view(y.n, y.h + 1, y.w + 1, y.rows.shape[1]).clone()
    whole[:, : y.h, : y.w, : y.c] = 0
    assert torch.equal(whole, torch.zeros_like(whole))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(0, 8, 3, 5), *((n, c, h, w) for n, c, _, h, w in SIZES)],
                         ids=name)  # fmt: skip
def test_into_the_form_and_out(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    n, c, h, w = size
    x = maps(size, dtype, device, seed=1).permute(0, 2, 3, 1)
    with gpu.on(x):
        made = flat.to_flat(x)
    filled = -c % (16 // x.element_size())
    expected = F.pad(x, (0, filled, 0, 1, 0, 1))
    assert torch.equal(made.rows, expected.reshape(-1, c + filled))
    assert torch.equal(made.plain(), x)
    check_border(made)
    flags = [i % (w + 1) < w and i // (w + 1) % (h + 1) < h for i in range(n * (h + 1) * (w + 1))]
    words = [
        sum(flag << j for j, flag in enumerate(flags[i : i + 32])) for i in range(0, len(flags), 32)
    ]
    assert [word & 0xFFFFFFFF for word in made.pixels.tolist()] == words


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=name)
def test_forward(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=2)
    weight, bias = weights(c_out, c_in, dtype, device, seed=2)
    for b, relu in ((bias, True), (bias, False), (None, n == 1)):
        y, plain = flat_conv(entry(dtype), x, weight, b, relu)
        assert torch.equal(channels_last(y.plain()), plain)
        oracle = reference.conv3x3(x.double(), weight.double(), double(b), relu)
        theirs, _ = EAGER.conv3x3(x, weight, b, relu, False, False)
        assert_close(f"y, relu={relu}", plain, theirs, oracle, 9 * c_in)


@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
def test_every_entry(tile: tiles.Tile, device: torch.device) -> None:
    """Both results; two blocks of output channels, two of input channels, more than one tile."""
    dtype = torch.float16 if tile.bits == 16 else torch.float32
    x = maps((2, tile.bk + 8, 9, tile.box[2] // 16), dtype, device, seed=3)
    weight, bias = weights(tile.bc + 4, tile.bk + 8, dtype, device, seed=3)
    before = precision.get()
    precision.set("ieee" if tile.ieee else before)
    try:
        y, plain = flat_conv(tile, x, weight, bias, True)
    finally:
        precision.set(before)
    assert torch.equal(channels_last(y.plain()), plain)
    oracle = reference.conv3x3(x.double(), weight.double(), bias.double(), True)
    theirs, _ = EAGER.conv3x3(x, weight, bias, True, False, False)
    assert_close("y", plain, theirs, oracle, 9 * x.shape[1])


@pytest.mark.skipif(ARCHES[-1] < 90, reason="persistent entries are of sm_90")
def test_persistent_programs(device: torch.device) -> None:
    """More tiles than programs: every program takes several, with the same bits."""
    tile = replace(next(t for t in ENTRIES if t.persistent), box=(1, 1, 64), bc=64)
    x = maps((3, 24, 9, 11), torch.float16, device, seed=4)
    weight, bias = weights(180, 24, torch.float16, device, seed=4)
    assert tile.programs((3, 9, 11), 180) > gpu.cores(device) or GPU
    y, plain = flat_conv(tile, x, weight, bias, True)
    other, expected = flat_conv(replace(tile, persistent=False), x, weight, bias, True)
    assert torch.equal(plain, expected)
    assert torch.equal(y.rows, other.rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("c", [16, 13])
def test_a_chain_kept_flat(c: int, dtype: torch.dtype, device: torch.device) -> None:
    """Two layers: bit for bit what they give one by one; 13 channels leave some to fill up."""
    x = maps((2, c, 11, 6), dtype, device, seed=5)
    (w1, b1), (w2, b2) = (weights(c, c, dtype, device, seed=seed) for seed in (5, 6))
    with tiles.forced(entry(dtype)):
        one, _ = ops.conv3x3(x, w1, b1, True, False, False)
        expected, _ = ops.conv3x3(one, w2, b2, False, False, False)
        y = ops.conv3x3_flat(x, [(w1, b1, True), (w2, b2, False)])
    assert torch.equal(y, expected)
    assert y.permute(0, 2, 3, 1).is_contiguous()
    theirs, _ = EAGER.conv3x3(x, w1, b1, True, False, False)
    theirs, _ = EAGER.conv3x3(theirs, w2, b2, False, False, False)
    middle = reference.conv3x3(x.double(), w1.double(), b1.double(), True)
    assert_close("y", y, theirs, reference.conv3x3(middle, w2.double(), b2.double(), False), 18 * c)


def test_a_run_finds_its_tiles(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a forced tile: those of the form, of any width and precision."""
    seen: list[tiles.Tile] = []
    real = flat.convolve

    def noted(*args: object) -> flat.FlatMap:
        seen.append(next(a for a in args if isinstance(a, tiles.Tile)))
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(flat, "convolve", noted)
    before = precision.get()
    for dtype, mode in ((torch.float16, before), (torch.float32, before), (torch.float32, "ieee")):
        x = maps((1, 3, 4, 5), dtype, device, seed=7)
        (w1, b1), (w2, _) = weights(9, 3, dtype, device, seed=7), weights(2, 9, dtype, device, 8)
        precision.set(mode)
        try:
            y = ops.conv3x3_flat(x, [(w1, b1, True), (w2, None, True)])
        finally:
            precision.set(before)
        theirs, _ = EAGER.conv3x3(x, w1, b1, True, False, False)
        theirs, _ = EAGER.conv3x3(theirs, w2, None, True, False, False)
        middle = reference.conv3x3(x.double(), w1.double(), b1.double(), True)
        assert_close("y", y, theirs, reference.conv3x3(middle, w2.double(), None, True), 9 * 12)
    assert [t.form for t in seen] == 6 * ["flat"]
    assert [(t.bits, t.ieee) for t in seen[::2]] == [(16, False), (32, False), (32, True)]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_nan_and_infinity_stay_where_they_belong(device: torch.device) -> None:
    """Beside a border and in the last channel: a border of NaN would spread to the next layer."""
    x = maps((3, 5, 4, 6), torch.float32, device, seed=9)
    x[0, 4, 3, 5] = float("nan")
    x[2, 0, 0, 0] = float("inf")
    w1, b1 = weights(6, 5, torch.float32, device, seed=9)
    w2, _ = weights(3, 6, torch.float32, device, seed=10)
    y, plain = flat_conv(entry(torch.float32), x, w1, b1, True)
    theirs, _ = EAGER.conv3x3(x, w1, b1, True, False, False)
    assert torch.equal(plain.isfinite(), theirs.isfinite())
    assert not plain.isfinite().all()
    assert torch.equal(channels_last(y.plain()).isfinite(), theirs.isfinite())
    with tiles.forced(entry(torch.float32)):
        second = ops.conv3x3_flat(x, [(w1, b1, True), (w2, None, False)])
    theirs, _ = EAGER.conv3x3(theirs, w2, None, False, False, False)
    assert torch.equal(second.isfinite(), theirs.isfinite())
    assert not second.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES[1:7], ids=name)
def test_dgrad(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    """The same kernel on turned weights, as backward calls it."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=11)
    weight, _ = weights(c_out, c_in, dtype, device, seed=11)
    grad = maps((n, c_out, h, w), dtype, device, seed=12)
    needs = (True, False, False)
    with tiles.forced(entry(dtype)):
        dx, _, _ = ops.conv3x3_backward(grad, x, weight, None, None, needs)
    theirs, _, _ = EAGER.conv3x3_backward(grad, x, weight, None, None, False, False, needs)
    wide = (grad.double(), x.double(), weight.double())
    oracle, _, _ = EAGER.conv3x3_backward(*wide, None, None, False, False, needs)
    assert_close("dx", dx, theirs, oracle, 9 * c_out)
    _, plain = flat_conv(entry(dtype), grad, weight, None, False, mirror=True)
    assert torch.equal(plain, dx if dx is not None else None)


def test_no_images(device: torch.device) -> None:
    x = maps((0, 8, 4, 5), torch.float16, device, seed=13)
    weight, bias = weights(12, 8, torch.float16, device, seed=13)
    assert ops.conv3x3_flat(x, [(weight, bias, True)]).shape == (0, 12, 4, 5)
    y, plain = flat_conv(entry(torch.float16), x, weight, bias, True)
    assert (y.rows.shape, plain.shape) == ((0, 16), (0, 12, 4, 5))
    with tiles.forced(entry(torch.float16)):
        assert ops.conv3x3(x, weight, bias, True, False, False)[0].shape == (0, 12, 4, 5)


def test_a_misaligned_map(device: torch.device) -> None:
    whole = torch.randn(2 * 6 * 6 * 8 + 1, generator=torch.Generator().manual_seed(14)).to(device)
    x = whole[1:].view(2, 6, 6, 8).permute(0, 3, 1, 2)
    assert x.data_ptr() % 16
    weight, bias = weights(8, 8, torch.float32, device, seed=14)
    layers = [(weight, bias, True)]
    assert torch.equal(ops.conv3x3_flat(x, layers), ops.conv3x3_flat(x.clone(), layers))


def test_a_pool_is_refused(device: torch.device) -> None:
    x = maps((1, 8, 4, 4), torch.float16, device, seed=15)
    weight, bias = weights(8, 8, torch.float16, device, seed=15)
    with (
        tiles.forced(entry(torch.float16)),
        pytest.raises(
            RuntimeError, match=r"^tile fprop_sm.*_flat.*: the padded-flat form has no po"
        ),
    ):
        ops.conv3x3(x, weight, bias, True, True, True)


def test_layers_that_do_not_fit_are_refused(device: torch.device) -> None:
    x = maps((1, 8, 4, 4), torch.float16, device, seed=16)
    w, b = weights(8, 8, torch.float16, device, seed=16)
    for layers, message in (
        ([], r"^layers: got none, allowed is one or more$"),
        ([(w, b, True), (w[:, :4], b, True)],
         r"^layers\[1\]: got weights torch.float16 \(8, 4, 3, 3\), allowed are torch.float16 "
         r"\(C_out, 8, 3, 3\)$"),
        ([(w.float(), b, True)], r"^layers\[0\]: got weights torch.float32 \(8, 8, 3, 3\), allow"),
        ([(w, b[:3], True)], r"^layers\[0\]: got a bias torch.float16 \(3,\), allowed are torch"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ops.conv3x3_flat(x, layers)


@pytest.mark.parametrize(
    ("n", "h", "w", "message"),
    [
        (
            256,
            2047,
            2048,
            r"got N x H x W = 256 x 2047 x 2048, allowed are N \(H \+ 1\) \(W \+ 1\)",
        ),
        (1, 1, 65500, r"got H x W = 1 x 65500, allowed are maps of about 65000"),
        (1, 65500, 1, r"got H x W = 65500 x 1, allowed are maps of about 65000"),
    ],
)
def test_maps_that_are_too_large_are_refused(n: int, h: int, w: int, message: str) -> None:
    tile = next(t for t in tiles.table() if t.form == "flat" and t.box[2] == 256)
    few = torch.zeros(1, 8, dtype=torch.float16)
    huge = flat.FlatMap(few, few.new_zeros(1, dtype=torch.int32), n, h, w, 8)
    with pytest.raises(RuntimeError, match=f"^tile {tile.name}: {message}"):
        flat.convolve(huge, few, 8, None, tile, False, False)
    query = asked((n, h, w))
    assert not tuned.runs(tile, query)
    assert tuned.runs(tile, query._replace(pixels=(1, 224, 224)))


def test_only_tiles_of_the_form(device: torch.device) -> None:
    with gpu.on(torch.zeros(1, device=device)):
        x = flat.to_flat(torch.zeros(1, 2, 2, 8, dtype=torch.float16, device=device))
    loop = tiles.choose("fprop", 90, 16, (1, 2, 2), 8, 8)
    with pytest.raises(RuntimeError, match=r"its form is 'loop', a flat map needs 'flat'$"):
        flat.convolve(x, x.rows, 8, None, loop, False, False)


def test_divisions_by_multiplication_are_exact() -> None:
    """For every dividend that a served map can have, at the ends where they would fail first."""
    for p in (64, 128, 256):
        for d in (2, 3, 5, 7, 15, 29, 57, 113, 225, 1021, 4097, 32749, 65521 - p, 65535 - p):
            assert flat_plan.refused(1, 1, d - 1, p) is None
            factor = flat_plan.reciprocal(d) & 0xFFFFFFFF
            near = {q * d + k for q in range(1 + p // d + 1) for k in (-1, 0, 1)} | {d + p - 1}
            for t in (t for t in near if 0 <= t < d + p):
                assert (t * factor) >> 32 == t // d, (t, d)


def asked(pixels: tuple[int, int, int], pool: bool = False) -> tuned.Query:
    return tuned.Query(
        "fprop", 90, 16, pixels, 512, 512, "fprop", pool, "bf16", Gpu("9.0", "an H100")
    )


def test_the_rule_never_takes_them() -> None:
    for pixels in ((32, 224, 224), (64, 18, 18), (1, 7, 7)):
        assert tuned.rule(asked(pixels)).form == "loop"
        assert tiles.choose("fprop", 90, 16, pixels, 512, 512, form="flat").form == "flat"


def test_a_table_may_take_them_but_with_a_pool() -> None:
    """A measured entry serves its shape; not a pool, not a chain's dgrad."""
    tile = next(t for t in tiles.table() if (t.form, t.arch, t.bits) == ("flat", 90, 16))
    query = asked((64, 18, 18))
    pooled = query._replace(pool=True)
    entries = [
        Entry(q.op, Shape(64, 18, 18, 512, 512, q.pool), query.gpu or Gpu("", ""), "bf16", tile,
              1.0, 2.0, 64, "", "", "")
        for q in (query, pooled)
    ]  # fmt: skip
    table = Table(Path("tiles.json"), tuple(entries))
    assert tuned.find(table, query) == entries[0]
    assert tuned.find(table, pooled) is None
    assert not tuned.runs(tile, query._replace(kernel="dgrad", op="dgrad"))
    # It also stands in a file: it is one of the table's tiles.
    assert table_file._known_tile(tile.as_dict(), {t: t for t in tiles.table()}) == tile


def test_the_tuner_tries_them() -> None:
    """Three maps of 72 x 72 fit no box: of the form's tiles one costs least, by count."""
    chosen, _ = search.promising(asked((3, 72, 72)), 132)
    best = min(chosen, key=lambda t: search.cost(t, asked((3, 72, 72)), 132))
    assert (chosen[0].form, best.form) == ("loop", "flat")
    pooled, _ = search.promising(asked((3, 72, 72), pool=True), 132)
    assert not any(t.form == "flat" for t in pooled)


def test_the_widest_of_nearly_equal_tiles_is_chosen() -> None:
    flats = [t for t in tiles.table() if (t.form, t.arch, t.bits) == ("flat", 90, 16)]
    many, few = (64, 56, 56), (1, 14, 14)
    work = {t: t.work(many, 256, 256) for t in flats}
    assert work[flats[0]] > min(work.values())
    assert tiles.choose("fprop", 90, 16, many, 256, 256, form="flat") == flats[0]
    # A persistent program has no next tile here.
    assert not tiles.choose("fprop", 90, 16, few, 256, 256, form="flat").persistent


def test_waste() -> None:
    """Of 14 x 14: 15 x 15 rows for an image, 225 x 64 = 56.25 tiles of 256."""
    tile = next(t for t in tiles.table() if t.form == "flat" and t.box[2] == 256)
    assert tile.counts((64, 14, 14)) == (1, 1, 57)
    assert tile.programs((64, 14, 14), 512) == 57 * 4
    assert tile.work((64, 14, 14), 512, 512) == 57 * 256 * 512 * 512
