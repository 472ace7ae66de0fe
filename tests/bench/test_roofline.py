"""bench/roofline.py: counts against numbers worked out by hand; a result beside a prediction."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import roofline
import torch
from counted import against, model, tiling, work
from counted.hardware import H100
from harness import networks, options
from harness.cases import group
from vggfast.kernels import tiles

from vggfast import configs
from vggfast.tune import problems

CONV = configs.Layer("conv4_2", "conv3x3", 512, 512, 28, 28, relu=True)
POOLED = replace(CONV, name="conv4_4", pool=True)
FIRST = configs.Layer("conv1_1", "conv3x3", 3, 64, 224, 224, relu=True)


def predict(layer: configs.Layer, kind: str, n: int, dtype: str = "bf16") -> model.Prediction:
    return model.predict(group([layer])[0], kind, n, dtype, H100, False)


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
    assert work.applies(FIRST, "wgrad")


def test_waste_and_waves_of_a_tile() -> None:
    """64 images of 28 x 28 are 392 boxes of 8 x 4 x 4 and four blocks of 128 of 512 channels."""
    t = tiling.tiled(CONV, "fprop", 64, "bf16", H100)
    assert (t.tile.box, t.tile.bc, t.tile.bk) == ((8, 4, 4), 128, 64)
    assert (t.programs, t.steps, t.useful) == (1568, 9 * 8, 1.0)
    assert t.step_bytes == (128 + 128) * 64 * 2
    assert t.step_flop == 2 * 128 * 128 * 64
    assert t.turns(132) == 12
    assert t.fill(132) == pytest.approx(1568 / 1584)
    # Three channels, padded to eight, in a block of 16: 3 of 16 products count.
    assert tiling.tiled(FIRST, "fprop", 64, "bf16", H100).useful == pytest.approx(3 / 16)
    # An image of 14 x 14 in boxes of 8 x 16: 196 of 256 pixels.
    small = replace(CONV, h=14, w=14)
    assert tiling.tiled(small, "fprop", 1, "bf16", H100).useful == pytest.approx(196 / 256)


def test_wgrad_fills_the_gpu_with_splits() -> None:
    """9 taps x 2 x 2 blocks are 36 programs; 264 // 36 = 7 splits of the boxes."""
    layer = replace(CONV, c_in=256, c_out=256)
    t = tiling.tiled(layer, "wgrad", 64, "bf16", H100)
    boxes = 64 * 28 * 28 // 64
    assert (t.splits, t.programs) == (7, 36 * 7)
    assert t.steps == -(-boxes // 7)
    assert t.useful == 1.0  # the last split is shorter, which is no waste of operations
    assert t.step_bytes == 64 * (128 + 128) * 2
    # 512 x 512 channels are 144 programs for 132 multiprocessors: two turns, 55 % full.
    assert tiling.tiled(CONV, "wgrad", 64, "bf16", H100).fill(132) == pytest.approx(144 / 264)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", problems.OPS)
def test_what_is_counted_is_what_is_launched(kind: str, dtype: str) -> None:
    """The launchers' own question to the tables, and their own division of wgrad's sum."""
    from vggfast.kernels.launch.gpu import share  # it imports triton, which others want unimported

    for layer in (replace(FIRST, h=18, w=21), replace(POOLED, c_in=24, c_out=20, h=9, w=7)):
        shape = replace(layer, name="", pool=layer.pool and kind == "fprop")
        problem = problems.Problem(kind, shape, 3, options.DTYPES[dtype], ("a layer",))
        asked = problems.asked(problem, torch.device("cpu"))
        assert asked is not None
        counted = tiling.query(layer, kind, 3, dtype, H100)
        assert counted._replace(gpu=None) == asked._replace(gpu=None)
    if kind == "wgrad":
        t = tiling.tiled(CONV, kind, 5, dtype, H100)
        boxes = math.prod(t.tile.counts((5, 28, 28)))
        programs = t.programs // t.splits
        assert (t.steps, t.splits) == share(boxes, 2 * 132 // programs)


def test_predicted_times() -> None:
    p = predict(CONV, "fprop", 64)
    steps = 12 * 72  # of the busiest multiprocessor
    assert p.limits["tensor"] == pytest.approx(steps * 2 * 128 * 128 * 64 * 132 / 798e12)
    assert p.limits["l2"] == pytest.approx(steps * 32768 * 132 / 5.5e12)
    assert p.limits["memory"] == pytest.approx((2 * 51_380_224 + 4_718_592 + 1024) / 3e12)
    assert p.bound == "l2"
    # Weights are read and written once for the kernel's layout: two launches.
    assert p.extra_bytes == 2 * 4_718_592
    assert p.extra == pytest.approx(p.extra_bytes / 3e12 + 2 * 3e-6)
    assert p.seconds == pytest.approx(p.limits["l2"] + p.extra)
    assert p.without_l2 == pytest.approx(p.limits["tensor"] + p.extra)
    # On few multiprocessors the L2 gives each what one can take, not a 132nd of all.
    few = predict(replace(CONV, h=14, w=14), "fprop", 1)
    assert few.limits["l2"] == pytest.approx(72 * 32768 / (64 * 1.755e9))
    first = predict(FIRST, "fprop", 64)
    assert first.extra_bytes == 2 * (9 * 64 * (3 + 8) + 64 * 224 * 224 * (3 + 8))
    fc6 = predict(configs.fc_layers()[0], "fprop", 1)
    assert fc6.bound == "memory"
    assert fc6.seconds == pytest.approx(fc6.work.bytes / 3e12 + 3e-6)


def test_a_network_is_its_layers() -> None:
    rows = model.rows("E", 8, "bf16", H100, 224)
    forward = [p for p in rows if p.kind == "fprop"]
    n = model.network("E", "inference", 8, "bf16", H100, 224)
    assert sum(p.group.count for p in forward) == 19
    assert n.seconds == pytest.approx(sum(p.seconds * p.group.count for p in forward))
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
    assert (row["pass"], row["flop"], row["programs"]) == ("fprop", 236_760_072_192, 1568)


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
    rows = model.rows("E", 64, "bf16", H100, 224, kind != "fprop")
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
    assert all("-" not in t and float(t[-2 if t[-1].isalpha() else -1]) > 0 for t in told)
