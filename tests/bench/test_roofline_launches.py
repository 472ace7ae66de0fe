"""What bench/roofline.py counts is what the launchers launch on 132 multiprocessors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from counted import model, tiling, work
from counted.hardware import H100
from harness import options
from roofline_cases import CONV, FIRST, POOLED, SMALL, predict
from vggfast.kernels import tiles, tuned
from vggfast.kernels.table_file import Gpu

from vggfast import configs
from vggfast.tune import problems


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
    from vggfast.kernels.launch import dgrad, first, flat, fprop, gpu, linear, pool, weights, wgrad

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

    for module in (dgrad, first, flat, fprop, gpu, linear, pool, weights, wgrad):
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


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("kind", ["fprop", "dgrad"])
def test_flat_tiles_launch_what_is_counted(
    kind: str, persistent: bool, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That a table names them: 3 x 15 x 15 rows in tiles of 256 are three."""
    from vggfast.kernels import ops

    tile = next(t for t in tiles.table() if (t.form, t.persistent) == ("flat", persistent))
    monkeypatch.setattr(tuned, "as_shipped", lambda asked: tile)
    layer = replace(SMALL, c_in=136, c_out=264)
    x, (w, b) = nhwc(3, 136, 14, 14), parameters(layer)
    if kind == "fprop":
        ops.conv3x3(x, w, b, True, False, False)
    else:
        ops.conv3x3_backward(nhwc(3, 264, 14, 14), x, w, None, None, (True, False, False))
    p = predict(layer, kind, 3, training=True)
    t = p.tiling
    assert t is not None
    assert [name for name, _ in launches.kernels] == [
        "pack3x3_kernel", "to_flat_kernel", "conv3x3_flat_kernel"
    ]  # fmt: skip
    assert p.kernels == 3
    c_in, c_out = (136, 264) if kind == "fprop" else (264, 136)
    tiles_c = -(-c_out // 128)
    assert launches.of("conv3x3_flat_kernel") == t.grid == (3 * tiles_c,)
    assert t.steps == 9 * -(-c_in // 64)
    used = 3 * 14 * 14 * c_in * c_out
    assert t.useful == pytest.approx(used / (3 * 256 * 128 * tiles_c * 64 * -(-c_in // 64)))
    packed = 2 * 2 * 9 * 136 * 264
    assert p.extra_bytes == packed + 2 * c_in * 3 * (14 * 14 + 15 * 15) + 4 * 22


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
