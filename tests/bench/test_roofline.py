"""bench/roofline.py: counts against numbers worked out by hand; a result beside a prediction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import roofline
import torch
from counted import against, model, tiling, work
from counted.hardware import H100
from harness import networks, options
from harness.cases import group
from vggfast.kernels import tiles, tuned
from vggfast.kernels.table_file import Gpu

from vggfast import configs
from vggfast.tune import problems

CONV = configs.Layer("conv4_2", "conv3x3", 512, 512, 28, 28, relu=True)
POOLED = replace(CONV, name="conv4_4", pool=True)
FIRST = configs.Layer("conv1_1", "conv3x3", 3, 64, 224, 224, relu=True)


def predict(
    layer: configs.Layer, kind: str, n: int, dtype: str = "bf16", training: bool = False,
    place: work.Place = work.ALONE,
) -> model.Prediction:  # fmt: skip
    return model.predict(group([layer])[0], kind, n, dtype, H100, training, place)


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


@dataclass
class Launches:
    """What launchers do on an H100's 132 multiprocessors, of which nothing runs."""

    kernels: list[tuple[str, tuple[int, ...]]]
    workspaces: list[int]  # elements
    asked: list[tuned.Query]

    def of(self, name: str) -> tuple[int, ...]:
        (grid,) = [grid for kernel, grid in self.kernels if kernel == name]
        return grid


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Launches:
    """Imports triton, which other tests want unimported at collection."""
    from vggfast.kernels.launch import dgrad, first, fprop, gpu, linear, pool, weights, wgrad

    seen = Launches([], [], [])

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *_, **__: seen.kernels.append((self.name, grid))

    def workspace(size: tuple[int, ...], like: torch.Tensor, what: str) -> torch.Tensor:
        seen.workspaces.append(math.prod(size))
        return torch.empty(size, device="meta")

    def choose(query: tuned.Query) -> tiles.Tile:
        seen.asked.append(query)
        return tuned.as_shipped(query)

    for module in (dgrad, first, fprop, gpu, linear, pool, weights, wgrad):
        for name in dir(module):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, Kernel(name))
        for name, instead in (("cores", lambda device: 132), ("workspace", workspace)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, instead)
    monkeypatch.setattr(gpu, "identity", lambda device: Gpu(H100.capability, H100.name))
    monkeypatch.setattr(gpu.tuned, "choose", choose)
    return seen


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", problems.OPS)
def test_what_is_counted_is_what_is_asked(kind: str, dtype: str, launches: Launches) -> None:
    """Of what the tuner calls, padded channels and odd maps included."""
    for layer in (replace(FIRST, h=18, w=21), replace(POOLED, c_in=24, c_out=20, h=9, w=7)):
        shape = replace(layer, name="", pool=layer.pool and kind == "fprop")
        problem = problems.Problem(kind, shape, 3, options.DTYPES[dtype], ("a layer",))
        launches.asked.clear()
        problems.Data(problem, torch.device("cpu"), filled=False).ours()
        assert launches.asked == [tiling.query(layer, kind, 3, dtype, H100)]


def nhwc(n: int, c: int, h: int, w: int) -> torch.Tensor:
    return torch.empty((n, h, w, c), dtype=torch.bfloat16).permute(0, 3, 1, 2)


def codes(n: int, c: int, h: int, w: int) -> torch.Tensor:
    return torch.empty((n, h, w, c // 4), dtype=torch.uint8)


def parameters(layer: configs.Layer) -> tuple[torch.Tensor, torch.Tensor]:
    w = torch.empty((layer.c_out, layer.c_in, 3, 3), dtype=torch.bfloat16)
    return w, torch.empty(layer.c_out, dtype=torch.bfloat16)


SMALL = replace(CONV, h=14, w=14)
LAUNCHED = [CONV, POOLED, SMALL, replace(SMALL, c_in=64, c_out=64, h=112, w=112), FIRST,
            replace(FIRST, pool=True, h=45, w=34)]  # fmt: skip


@pytest.mark.parametrize("n", [1, 13])
@pytest.mark.parametrize("layer", LAUNCHED, ids=lambda x: f"{x.c_in}x{x.h}{'p' * x.pool}")
def test_forward_launches_what_is_counted(layer: configs.Layer, n: int, launches: Launches) -> None:
    from vggfast.kernels import ops

    ops.conv3x3(nhwc(n, layer.c_in, layer.h, layer.w), *parameters(layer), True, layer.pool, True)
    p = predict(layer, "fprop", n, training=True)
    t = p.tiling
    assert t is not None
    assert launches.asked == [tiling.query(layer, "fprop", n, "bf16", H100)]
    names = [name for name, _ in launches.kernels]
    if layer.c_in == 3:
        assert launches.kernels == [("first_fprop_kernel", t.grid)]
    elif t.sums:
        assert names == ["pack3x3_kernel", "conv3x3_split_kernel", "conv3x3_join_kernel"]
        assert launches.of("conv3x3_split_kernel") == t.grid
    else:
        assert launches.of("conv3x3_fprop_kernel") == t.grid
    assert len(names) == p.kernels
    assert sum(launches.workspaces) == t.splits * t.sums
    assert p.joined == pytest.approx(8 * t.splits * t.sums / H100.l2)


@pytest.mark.parametrize("n", [1, 13])
@pytest.mark.parametrize("layer", LAUNCHED, ids=lambda x: f"{x.c_in}x{x.h}{'p' * x.pool}")
def test_weight_gradients_launch_what_is_counted(
    layer: configs.Layer, n: int, launches: Launches
) -> None:
    """Alone, where the first layer's goes through ReLU and pool itself; and below a chain."""
    from vggfast.kernels import ops

    out = (n, layer.c_out, layer.h // 2, layer.w // 2) if layer.pool else (
        n, layer.c_out, layer.h, layer.w
    )  # fmt: skip
    x, (w, _) = nhwc(n, layer.c_in, layer.h, layer.w), parameters(layer)
    argmax = codes(*out) if layer.pool else None
    kernel = "first_wgrad_kernel" if layer.c_in == 3 else "conv3x3_wgrad_kernel"
    for place in (work.ALONE, work.Place(top=False)):
        launches.kernels.clear()
        launches.workspaces.clear()
        launches.asked.clear()
        top, fused = place.top, place.top and layer.c_in == 3
        if top:
            grad, mask = nhwc(*out), nhwc(*out)
            ops.conv3x3_backward(grad, x, w, mask, argmax, (False, True, True))
        else:
            dz = nhwc(n, layer.c_out, layer.h, layer.w)
            ops.conv3x3_backward(dz, x, w, None, None, (False, True, False))
        p = predict(layer, "wgrad", n, training=True, place=place)
        t = p.tiling
        assert t is not None
        assert launches.asked == [tiling.query(layer, "wgrad", n, "bf16", H100, place)]
        assert launches.of(kernel) == t.grid
        masks = predict(layer, "mask", n).kernels if top and not fused else 0
        assert len(launches.kernels) == p.kernels + masks
        assert launches.workspaces[-1] == t.splits * t.sums
        assert p.extra_bytes == 8 * t.splits * t.sums


@pytest.mark.parametrize("n", [1, 13])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("side", [14, 37])
def test_a_chain_launches_what_is_counted(
    side: int, pool: bool, n: int, launches: Launches
) -> None:
    """dgrad with the way back through the layer below, and that layer's bias gradient."""
    from vggfast.kernels import ops

    layer = replace(CONV, c_in=64, c_out=128, h=side, w=side)
    size = 2 * side + 1 if pool else side  # an odd map: one more row of windows
    below = replace(CONV, c_in=64, c_out=64, h=size, w=size, pool=pool)
    place = work.Place(below, False)
    dz, x = nhwc(n, 128, side, side), nhwc(n, 64, side, side)
    argmax = codes(*x.shape) if pool else None
    ops.conv3x3_chain_step(dz, x, parameters(layer)[0], argmax, size, size, (False, True))
    p = predict(layer, "dgrad", n, training=True, place=place)
    t = p.tiling
    assert t is not None
    assert launches.asked == [tiling.query(layer, "dgrad", n, "bf16", H100, place)]
    assert launches.of("conv3x3_dgrad_kernel") == t.grid
    assert len(launches.kernels) == p.kernels
    packed = 2 * 2 * 9 * 64 * 128
    assert p.extra_bytes == packed + 8 * sum(launches.workspaces)


def test_fc_layers_of_few_images_are_two_kernels(launches: Launches) -> None:
    from vggfast.kernels import ops
    from vggfast.kernels.launch import dgrad, linear

    fc8 = configs.fc_layers()[2]
    x, w = (torch.empty((k, 4096), dtype=torch.bfloat16) for k in (2, 1000))
    ops.linear(x, w, None, False)
    assert len(launches.kernels) == predict(fc8, "fprop", 2).kernels == 2
    assert model.FEW_IMAGES == linear.MOST_IMAGES
    assert predict(fc8, "fprop", 17).kernels == 1
    assert model.SUM_ROWS == dgrad._SUM_ROWS


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


# --- beside a result


def result(device: str = "NVIDIA H100 80GB HBM3", **changes: object) -> dict[str, object]:
    """What bench/run.py writes, as far as it is read here: two layers, a network."""

    def row(*names: str, ms: float | None) -> dict[str, object]:
        times = {"torch channels_last": {"median_ms": 1.0}}
        ours = {} if ms is None else {"vggfast": {"median_ms": ms}}
        return {"layers": list(names), "times": {**ours, **times}}

    return {
        "schema": 1,
        "options": {"net": "E", "dtype": "bf16", "size": 224},
        "machine": {"device": device},
        "layers": [
            {"batch": 64, "pass": "fprop",
             "rows": [row("conv4_2", "conv4_3", ms=2 * ms_of("fprop")), row("fc6", ms=None)]},
            {"batch": 64, "pass": "wgrad", "rows": [row("conv4_2", "conv4_3", ms=4.5)]},
        ],
        "networks": [{"kind": "inference", "batch": 64, "times": {"vggfast": {"median_ms": 9.0}}}],
        **changes,
    }  # fmt: skip


def ms_of(kind: str) -> float:
    """Predicted for conv4_2 of E at 64 images; a gradient of bench/run.py goes through the ReLU."""
    rows = model.rows("E", 64, "bf16", H100, 224)
    kinds = against.PARTS[kind]
    return 1e3 * sum(p.seconds for p in rows if p.group.names[0] == "conv4_2" and p.kind in kinds)


def test_a_result_beside_the_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(result()))
    assert roofline.main(["--against", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "VGG-E, bf16: measured on NVIDIA H100 80GB HBM3, predicted for NVIDIA H100 80GB HBM3"
    )
    told = [line.split() for line in lines]
    fprop, wgrad = [t for t in told if t[0] == "conv4_2"]
    assert fprop[3:] == ["2.00", "l2"]
    assert float(fprop[1]) == pytest.approx(ms_of("fprop"), abs=1e-4)
    assert float(wgrad[1]) == pytest.approx(ms_of("wgrad"), abs=1e-4)
    assert float(wgrad[3]) == pytest.approx(4.5 / ms_of("wgrad"), abs=0.01)
    (fc6,) = [t for t in told if t[0] == "fc6"]
    assert fc6[2:4] == ["-", "-"]  # not timed
    (network,) = [t for t in told if t[0] == "inference"]
    expected = model.network("E", "inference", 64, "bf16", H100, 224)
    assert float(network[2]) == pytest.approx(1e3 * expected.seconds, abs=1e-4)
    assert float(network[4]) == pytest.approx(9.0 / (1e3 * expected.seconds), abs=0.01)


def test_another_gpu_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(result("NVIDIA A100-SXM4-80GB")))
    assert roofline.main(["--against", str(path)]) == 0
    assert "not the same GPU" in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (result("cpu"), "got a result of the CPU"),
        (result(schema=2), "got schema 2"),
        (result(options={"net": "E", "dtype": "int8", "size": 224}), "got dtype 'int8'"),
        ({"schema": 1}, "allowed is a result of bench/run.py"),
        ([], "allowed is a result of bench/run.py"),
    ],
)
def test_what_is_no_result_of_a_gpu(
    found: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(found))
    assert roofline.main(["--against", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: --against: ")
    assert message in err
    assert err.count("\n") == 1


def test_results_of_the_bench_have_what_is_read() -> None:
    """A committed result of a CPU, said to be a GPU's: each row and network has a prediction."""
    path = max(options.RESULTS.glob("E_cpu_fp32_*.json"))
    found = json.loads(path.read_text())
    found["machine"]["device"] = H100.name
    lines = list(against.lines(found, H100))
    rows = sum(len(part["rows"]) for part in found["layers"]) + len(found["networks"])
    told = [line.split() for line in lines if line.startswith("  ") and "measured" not in line]
    assert len(told) == rows
    limits = ("tensor", "l2", "memory", "extra")
    assert all("-" not in t and float(t[-2 if t[-1] in limits else -1]) > 0 for t in told)
