"""bench/roofline.py: counts against numbers worked out by hand, times from them, the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import roofline
from counted import model, tiling, work
from counted.hardware import H100
from harness import networks, options
from roofline_cases import CONV, FIRST, POOLED, SMALL, predict
from vggfast.kernels import tiles

from vggfast import configs


def test_the_operations_of_the_networks() -> None:
    """19.6 G multiply-adds for an image of E, 15.5 for D, 7.6 for A; a step is three times that."""
    for net, multiply_adds in (("E", 19.632), ("D", 15.470), ("A", 7.609)):
        n = model.network(net, "inference", 8, "bf16", H100, 224)
        assert n.flop == pytest.approx(8 * 2e9 * multiply_adds, rel=1e-4)
        assert n.roof == pytest.approx(n.flop / 798e12)
    o = options.parse(["--net", "E", "--device", "cpu"])
    step = model.network("E", "training", 8, "bf16", H100, 224)
    assert step.flop == 8 * networks.training_flop(o)


def test_the_work_of_a_layer() -> None:
    """512 channels at 28 x 28, 64 images, 2 bytes: a map is 51 380 224 bytes, weights 4 718 592."""
    x, w, y, b = 51_380_224, 4_718_592, 51_380_224, 1024
    flop = 2 * 9 * 512 * 512 * 28 * 28 * 64
    assert work.count(CONV, "fprop", 64, "bf16") == work.Work(flop, x + w + b, y)
    assert work.count(POOLED, "fprop", 64, "bf16") == work.Work(flop, x + w + b, y // 4)
    # Two bits for each element that a pool leaves.
    assert work.count(POOLED, "fprop", 64, "bf16", True).written == y // 4 + y // 8 // 4
    assert work.count(CONV, "mask", 64, "bf16") == work.Work(0, 2 * y, y + b)
    assert work.count(POOLED, "mask", 64, "bf16") == work.Work(0, y // 2 + y // 32, y + b)
    assert work.count(CONV, "dgrad", 64, "bf16") == work.Work(flop, y + w, x)
    assert work.count(CONV, "wgrad", 64, "bf16") == work.Work(flop, x + y, w)
    assert work.count(CONV, "wgrad", 64, "fp32").bytes == 2 * (x + y + w)
    fc6 = configs.fc_layers()[0]
    assert work.count(fc6, "fprop", 1, "bf16").read == 2 * (25088 + 25088 * 4096 + 4096)
    assert not work.applies(FIRST, "dgrad")
    assert not work.applies(FIRST, "mask")
    assert work.applies(FIRST, "wgrad")
    # Alone its wgrad reads the gradient and the mask, and gives db; in a chain it reads dz.
    x, w, y, b = (2 * k for k in (224 * 224 * 3, 27 * 64, 224 * 224 * 64, 64))
    assert work.count(FIRST, "wgrad", 1, "bf16") == work.Work(FIRST.flop, x + 2 * y, w + b)
    link = work.Place(top=False)
    assert work.count(FIRST, "wgrad", 1, "bf16", True, link) == work.Work(FIRST.flop, x + y, w)


def test_the_work_of_a_link_of_a_chain() -> None:
    """It reads x as the mask and writes dz of the layer below: of four times the size of x behind a
    pool, whose argmax takes two bits for each element of x."""
    x, w, flop = 51_380_224, 4_718_592, 2 * 9 * 512 * 512 * 28 * 28 * 64
    plain, pooled = work.Place(CONV, False), work.Place(replace(POOLED, h=56, w=56), False)
    assert work.count(CONV, "dgrad", 64, "bf16", True, plain) == work.Work(flop, 2 * x + w, x)
    assert work.count(CONV, "dgrad", 64, "bf16", True, pooled) == work.Work(
        flop, 2 * x + w + x // 8, 4 * x
    )
    assert not work.applies(CONV, "mask", plain)
    assert work.applies(CONV, "mask", work.Place(CONV, True))


def test_waste_and_waves_of_a_tile() -> None:
    """64 images of 28 x 28 are 196 boxes of 16 x 4 x 4 and four blocks of 128 of 512 channels."""
    t = tiling.tiled(CONV, "fprop", 64, "bf16", H100)
    assert (t.tile.box, t.tile.bc, t.tile.bk) == ((16, 4, 4), 128, 64)
    assert (t.programs, t.grid, t.steps, t.splits, t.useful) == (784, (784,), 9 * 8, 1, 1.0)
    assert t.step_bytes == (256 + 128) * 64 * 2
    assert t.step_flop == 2 * 256 * 128 * 64
    assert t.turns(132) == 6
    assert t.fill(132) == pytest.approx(784 / 792)
    # With a pool in the epilogue that tile has too few registers: half the pixels.
    pooled = tiling.tiled(POOLED, "fprop", 64, "bf16", H100)
    assert (pooled.tile.box, pooled.programs) == ((8, 4, 4), 1568)
    # At 56 x 56 a persistent one fits: 16 x 7 x 7 boxes of 4 x 8 x 8, two blocks of channels.
    wide = replace(CONV, c_in=256, c_out=256, h=56, w=56)
    t = tiling.tiled(wide, "fprop", 64, "bf16", H100)
    assert t.tile.persistent
    assert (t.programs, t.grid, t.turns(132)) == (1568, (132,), 12)


def test_few_tiles_are_split() -> None:
    """14 x 14 in boxes of 8 x 16: 196 of 256 pixels, and 8 tiles of 72 steps for 132
    multiprocessors: 15 parts of 5 steps."""
    small = replace(CONV, h=14, w=14)
    t = tiling.tiled(small, "fprop", 1, "bf16", H100)
    assert t.useful == pytest.approx(196 / 256)
    assert (t.grid, t.programs, t.splits, t.steps) == ((8, 15), 120, 15, 5)
    assert t.sums == 8 * 128 * 128
    # A chain's dgrad needs the whole sum for its epilogue.
    chain = tiling.tiled(small, "dgrad", 1, "bf16", H100, work.Place(small, False))
    assert (chain.grid, chain.splits, chain.steps, chain.sums) == ((8,), 1, 72, 0)


def test_the_first_layer_gathers() -> None:
    """All taps of three channels are 27 of the 32 products of its only step."""
    t = tiling.tiled(FIRST, "fprop", 64, "bf16", H100)
    assert t.useful == pytest.approx(27 / 32)
    # 56 x 7 boxes of 4 x 32 an image, for 16 programs a multiprocessor.
    assert (t.programs, t.grid, t.steps) == (64 * 392, (16 * 132, 1), 1)
    assert t.step_flop == 2 * 128 * 64 * 32
    assert t.step_bytes == 2 * 3 * 6 * 34  # a box with its rim
    assert tiling.tiled(FIRST, "fprop", 1, "bf16", H100).grid == (392, 1)
    # Three programs a multiprocessor: 396 for 25088 boxes are 64 each, which 392 serve.
    t = tiling.tiled(FIRST, "wgrad", 64, "bf16", H100)
    assert (t.grid, t.steps, t.splits, t.sums) == ((392, 1), 64, 392, 64 * 32)
    assert t.useful == pytest.approx(27 / 32)
    assert t.step_bytes == 2 * 3 * 6 * 34 + 2 * 2 * 128 * 64  # and the gradient and the mask
    below = tiling.tiled(FIRST, "wgrad", 64, "bf16", H100, work.Place(top=False))
    assert below.step_bytes == 2 * 3 * 6 * 34 + 2 * 128 * 64  # and dz
    # Of A, behind a pool: 14 x 7 boxes of 8 x 16 windows an image, each four times over.
    t = tiling.tiled(replace(FIRST, pool=True), "wgrad", 64, "bf16", H100)
    assert (t.tile.box, t.grid, t.steps) == ((1, 8, 16), (392, 1), 4 * 16)
    assert t.useful == pytest.approx(27 / 32)
    assert t.step_bytes == (2 * 3 * 18 * 34 + 2 * 2 * 128 * 64 + 128 * 64 // 4) // 4


def test_wgrad_fills_the_gpu_with_splits() -> None:
    """9 taps x 2 blocks are 18 programs for 132 multiprocessors: seven splits of the 784 boxes."""
    layer = replace(CONV, c_in=256, c_out=256)
    t = tiling.tiled(layer, "wgrad", 64, "bf16", H100)
    assert (t.tile.box, t.tile.bc, t.tile.bk) == ((4, 4, 4), 128, 256)
    assert (t.splits, t.programs, t.grid) == (7, 18 * 7, (18, 7))
    assert t.steps == 16 * 49 // 7
    assert t.useful == 1.0
    assert t.step_bytes == 64 * (128 + 256) * 2
    # 512 x 512 channels are 72 programs: one split would leave 60 multiprocessors without work.
    t = tiling.tiled(CONV, "wgrad", 64, "bf16", H100)
    assert t.programs == 72 * t.splits
    assert t.fill(132) > 0.9
    # Three taps share their box of dz.
    narrow = tiling.tiled(replace(CONV, c_in=64, c_out=64, h=224, w=224), "wgrad", 1, "bf16", H100)
    assert (narrow.tile.taps, narrow.tile.box) == (3, (1, 1, 32))
    assert narrow.step_bytes == 32 * (64 + 3 * 64) * 2
    assert narrow.step_flop == 3 * 2 * 32 * 64 * 64
    assert narrow.programs == 3 * narrow.splits
    assert narrow.useful == 1.0


def test_a_gluon_tile_that_a_table_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program a multiprocessor; three taps of a column share 10 rows of 32 pixels."""
    (tile,) = [
        t for t in tiles.table() if (t.form, t.box, t.bc) == ("gluon", (1, 8, 32), 128)
    ]  # fmt: skip
    monkeypatch.setattr(tiling.tuned, "as_shipped", lambda asked: tile)
    t = tiling.tiled(replace(CONV, h=56, w=64), "fprop", 8, "bf16", H100)
    assert (t.programs, t.grid, t.steps, t.splits) == (8 * 7 * 2 * 4, (132,), 72, 1)
    assert t.step_bytes == 2 * 64 * (107 + 128)


def test_predicted_times() -> None:
    p = predict(CONV, "fprop", 64, training=True)
    steps = 6 * 72  # of the busiest multiprocessor
    assert p.limits["tensor"] == pytest.approx(steps * 2 * 256 * 128 * 64 * 132 / 798e12)
    assert p.limits["l2"] == pytest.approx(steps * 49152 * 132 / 5.5e12)
    assert p.limits["memory"] == pytest.approx((2 * 51_380_224 + 4_718_592 + 1024) / 3e12)
    assert p.bound == "l2"
    # In training weights are read and written for the kernel's layout: two launches.
    assert p.extra_bytes == 2 * 4_718_592
    assert p.extra == pytest.approx(p.extra_bytes / 3e12 + 2 * 3e-6)
    assert p.seconds == pytest.approx(p.limits["l2"] + p.extra)
    assert p.without_l2 == pytest.approx(p.limits["tensor"] + p.extra)
    kept = predict(CONV, "fprop", 64)
    assert (kept.extra_bytes, kept.extra) == (0, 3e-6)
    # Of a split sum the parts go through the L2, of which 120 multiprocessors have all.
    few = predict(SMALL, "fprop", 1)
    assert few.limits["l2"] == pytest.approx(5 * 32768 * 120 / 5.5e12)
    assert few.joined == pytest.approx(2 * 4 * 15 * 8 * 128 * 128 / 5.5e12)
    assert few.extra == pytest.approx(2 * 3e-6)
    assert few.seconds == pytest.approx(few.limits["l2"] + few.extra + few.joined)
    assert few.without_l2 == pytest.approx(few.limits["tensor"] + few.extra)
    # On few multiprocessors the L2 gives each what one can take: a chain's dgrad has 8 programs.
    chain = predict(SMALL, "dgrad", 1, place=work.Place(SMALL, False))
    assert chain.limits["l2"] == pytest.approx(72 * 32768 / (64 * 1.755e9))
    first = predict(FIRST, "fprop", 64)
    assert first.extra_bytes == 0
    assert first.bound == "memory"
    # The first layer's products of float32 are on the ordinary cores, others' in TF32.
    exact = predict(FIRST, "fprop", 64, "fp32")
    rounds = -(-exact.tiling.programs // 132) if exact.tiling else 0
    box = 2 * 4 * 32 * 32 * 32
    assert exact.limits["tensor"] == pytest.approx(rounds * box * 132 / 66.9e12)
    fc6 = predict(configs.fc_layers()[0], "fprop", 1)
    assert fc6.bound == "memory"
    assert fc6.seconds == pytest.approx(fc6.work.bytes / 3e12 + 2 * 3e-6)


def test_a_network_is_its_layers() -> None:
    rows = model.rows("E", 8, "bf16", H100, 224)
    forward = [p for p in rows if p.kind == "fprop"]
    n = model.network("E", "inference", 8, "bf16", H100, 224)
    assert sum(p.group.count for p in forward) == 19
    assert n.seconds == pytest.approx(sum(p.seconds * p.group.count for p in forward))
    # In a step weights are packed, and dz is made in the dgrad above but at the top of the chain.
    rows = model.rows("E", 8, "bf16", H100, 224, True)
    convolutions = [p for p in rows if p.group.layer.op == "conv3x3"]
    assert [p.group.names for p in convolutions if p.kind == "mask"] == [("conv5_4",)]
    dgrads = [p.group.names for p in convolutions if p.kind == "dgrad"]
    assert ("conv5_1",) in dgrads  # below it is a pool, below its equals there is none
    assert ("conv5_2", "conv5_3") in dgrads
    assert sum(map(len, dgrads)) == 15
    step = model.network("E", "training", 8, "bf16", H100, 224)
    update = 143_667_240 * 32 / 3e12  # parameters, each 20 bytes for SGD and 12 for autocast
    passes = sum(p.seconds * p.group.count for p in rows)
    assert step.seconds == pytest.approx(passes + update, rel=1e-3)
    assert n.roof < n.without_l2 <= n.seconds < step.seconds


@pytest.mark.parametrize("net", configs.NETS)
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_every_network_is_counted(net: str, dtype: str) -> None:
    for p in model.rows(net, 1, dtype, H100, 224):
        assert p.seconds > 0
        if p.tiling is not None:
            assert 0 < p.tiling.useful <= 1
            assert 0 < p.tiling.fill(132) <= 1
            assert p.tiling.tile in tiles.table()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "p.json"
    assert roofline.main(["--net", "A,E", "--batch", "1,64", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("predicted by counting (bench/roofline.py), never measured")
    assert "VGG-E training, batch 64: " in text
    found = json.loads(out.read_text())
    assert found["what"].endswith("never measured")
    assert [(p["net"], p["batch"]) for p in found["layers"]] == [
        ("A", 1), ("A", 64), ("E", 1), ("E", 64)
    ]  # fmt: skip
    assert len(found["networks"]) == 8
    row = next(r for r in found["layers"][3]["rows"] if r["layers"] == ["conv4_2", "conv4_3"])
    assert (row["pass"], row["flop"], row["programs"]) == ("fprop", 236_760_072_192, 784)


def test_what_is_committed_says_what_it_is() -> None:
    found = json.loads(roofline.OUT.read_text())
    assert found["what"].endswith("never measured")
    assert {(p["net"], p["batch"]) for p in found["layers"]} == {
        (net, n) for net in "ADE" for n in (1, 8, 64, 256)
    }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--net", "F"], "--net: got 'F', allowed are A,"),
        (["--batch", "1,0"], "--batch: got '0'"),
        (["--dtype", "int8"], "--dtype: got 'int8', allowed are bf16, fp16, fp32"),
        (["--size", "31"], "--size: got '31'"),
        (["--against", "nothing.json"], "--against: got 'nothing.json': "),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_argument(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert roofline.main([*argv, "--out", str(tmp_path / "o.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: {message}")
    assert not (tmp_path / "o.json").exists()
