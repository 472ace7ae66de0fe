"""A tiny run from arguments to files: what the JSON holds, what is printed, what is left behind."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import ceilings, endtoend, machine, results, session
from harness.cli import main
from harness.nets import PlainVGG
from rich.console import Console

import vggfast
from vggfast import configs

RUN = Path(__file__).resolve().parents[2] / "bench" / "run.py"
ARGV = ["--net", "A", "--size", "32", "--quick", "--batch", "1,2", "--device", "cpu", "--seed", "7"]


Found = tuple[dict[str, Any], str, Path]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """One run: its JSON, what it printed, its folder."""
    return run(ARGV, tmp_path_factory.mktemp("results"))


def run(argv: list[str], out: Path) -> Found:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setitem(session.LIMITS, ("cpu", True), 1.0)  # one round of everything
        patch.setitem(ceilings.GEMM_SIZE, "cpu", 256)
        patch.setitem(ceilings.CONV_SHAPE, "cpu", (1, 32, 14))
        patch.setitem(ceilings.COPY_BYTES, "cpu", 1 << 20)
        patch.setattr(endtoend, "DRAWS", 3)
        assert main([*argv, "--out", str(out)]) == 0
    (path,) = out.glob("*.json")
    return json.loads(path.read_text()), printed.getvalue(), out


def test_files(tiny: Found) -> None:
    record, printed, out = tiny
    names = sorted(p.name for p in out.iterdir())
    assert [Path(n).suffix for n in names] == [".json", ".png"]
    date = record["date"][:10].replace("-", "")
    assert names[0].startswith(f"A_cpu_fp32_quick_{date}")
    assert (out / names[1]).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert names[0] in printed


def test_header(tiny: Found) -> None:
    record, printed, _ = tiny
    assert record["schema"] == results.SCHEMA
    assert record["versions"]["torch"] == torch.__version__
    assert record["versions"]["vggfast"] == vggfast.__version__
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert record["machine"]["cpu"]
    assert record["commit"] == machine.commit()
    assert record["options"] == {
        "net": "A", "batch": [1, 2], "train_batch": 2, "dtype": "fp32", "weights": "fp32",
        "backend": "auto", "exact": False, "device": "cpu", "threads": torch.get_num_threads(),
        "mode": "quick", "size": 32, "seed": 7,
    }  # fmt: skip
    for said in (record["machine"]["cpu"], record["commit"], *record["backends"]):
        assert said in printed
    assert "/" not in record["machine"]["cpu"].split(" ")[0]


def test_numerics_come_first_and_cover_every_layer(
    tiny: Found,
) -> None:
    record, printed, _ = tiny
    checks = record["numerics"]["checks"]
    assert record["numerics"]["passed"]
    named = {n for c in checks for n in c["what"].split(", ")}
    assert named == {layer.name for layer in configs.layers("A", 32)} | {"network"}
    assert all(c["error"] <= c["bound"] for c in checks)
    assert printed.index("checks passed") < printed.index("layers, fprop, batch 1")


def test_throughput(tiny: Found) -> None:
    record, printed, _ = tiny
    runs = record["networks"]
    assert [(r["kind"], r["batch"]) for r in runs] == [
        ("inference", 1), ("inference", 2), ("training", 2),
    ]  # fmt: skip
    layers = configs.conv_layers("A", 32) + configs.fc_layers(crop=32)
    forward = sum(layer.flop for layer in layers) / 1e9
    assert [r["gflop"] for r in runs[:2]] == pytest.approx([forward, 2 * forward])
    assert runs[2]["gflop"] == pytest.approx(2 * (3 * forward - layers[0].flop / 1e9))
    for r in runs:
        timed = r["times"]
        assert {"vggfast", "torch channels_last"} <= set(timed)
        for name, t in timed.items():
            assert t["n"] >= 1
            assert 0 < t["min_ms"] <= t["q1_ms"] <= t["median_ms"] <= t["q3_ms"] <= t["max_ms"]
            assert r["images_per_s"][name] == pytest.approx(1e3 * r["batch"] / t["median_ms"])
            assert r["tflops"][name] == pytest.approx(r["gflop"] / t["median_ms"])
        best = timed[r["best_baseline"]]["median_ms"]
        assert r["ratio"] == pytest.approx(best / timed["vggfast"]["median_ms"])
    assert record["ceilings"]["gemm_tflops"] > 0
    assert record["ceilings"]["conv_tflops"] > 0
    assert record["ceilings"]["copy_gbps"] > 0
    assert "images/s" in printed


def test_layer_tables(tiny: Found) -> None:
    record, _, _ = tiny
    assert [(t["batch"], t["pass"]) for t in record["layers"]] == [(1, "fprop")]
    for table in record["layers"]:
        named = [n for row in table["rows"] for n in row["layers"]]
        assert sorted(named) == sorted(layer.name for layer in configs.layers("A", 32))
        total = sum(len(r["layers"]) * r["times"]["vggfast"]["median_ms"] for r in table["rows"])
        assert table["sum_ms"]["vggfast"] == pytest.approx(total)


def test_every_comparison_left_out_is_said(tiny: Found) -> None:
    record, printed, _ = tiny
    left_out = {s["what"]: s["reason"] for s in record["skipped"]}
    for r in record["networks"]:
        for name in {"torch channels_last", "torch NCHW", "torch.compile"} - set(r["times"]):
            assert left_out[f"{name}, {r['kind']} batch {r['batch']}"]
    assert "torch.compile, training batch 2" in left_out
    for what, reason in left_out.items():
        assert f"not timed: {what}: {reason}" in printed.replace("\n", " ")


def test_weights_stored_in_bf16_are_said_and_held_to_fp32(tmp_path: Path) -> None:
    record, printed, _ = run([*ARGV[:4], "--quick", "--batch", "1", "--device", "cpu",
                              "--weights", "bf16"], tmp_path)  # fmt: skip
    printed = " ".join(printed.split())
    assert record["options"]["weights"] == "bf16"
    assert "FC weights stored in bf16" in record["backends"][0]
    assert any("weights bf16; batch <= 32" in line for line in record["backends"])
    assert "VGG-A, 32x32, fp32, vggfast's FC weights bf16" in printed
    assert "not timed: training: --weights bf16 is for inference" in printed
    (name,) = (p.name for p in tmp_path.glob("*.json"))
    assert name.startswith("A_cpu_fp32_quick_bf16-weights_")
    numerics = record["numerics"]
    moved = numerics["rounding_of_weights"]
    assert 1e-4 < moved < 1e-2
    assert f"rounding them moves the logits by {moved:.1e}" in printed
    (timed,) = (c for c in numerics["checks"] if c["quantity"].startswith("logits of the timed"))
    assert timed["error"] < 0.01 * moved  # against the rounded weights
    assert timed["bound"] == 1e-4
    stored = [c for c in numerics["checks"] if "stored in bf16" in c["case"]]
    assert {c["what"] for c in stored} == {"fc6", "fc7", "fc8"}
    assert all(c["error"] < 1e-6 for c in stored)
    (network,) = record["networks"]
    assert network["kind"] == "inference"
    peer = network["peers"]["torch channels_last"]
    assert peer["dtype"] == "fp32"
    assert peer["error"] < 0.01 * moved


def test_same_kernels_are_said(tmp_path: Path) -> None:
    from harness import options

    o = options.parse([*ARGV, "--backend", "eager", "--out", str(tmp_path)])
    said = session._same_kernels(o)
    assert said is not None
    assert "conv3x3 (eager backend)" in said


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def write(part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        results.atomically(tmp_path / "r.json", write)
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_bare_nan() -> None:
    assert results._plain({"a": [math.nan, (1.5, math.inf)]}) == {"a": ["nan", [1.5, "inf"]]}


@pytest.mark.parametrize("net", configs.NETS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_baseline_is_the_same_network(net: str, channels_last: bool) -> None:
    torch.manual_seed(3)
    model = vggfast.vgg(net, num_classes=5, crop=32, backend="eager").eval()
    plain = PlainVGG(net, model.state_dict(), 32, channels_last=channels_last).eval()
    assert list(plain.state_dict()) == list(model.state_dict())
    assert not any(type(m).__module__.startswith("vggfast") for m in plain.modules())
    name = "classifier.0.weight"
    assert plain.state_dict()[name].data_ptr() == model.state_dict()[name].data_ptr()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)


def test_progress_is_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.progress import Steps

    with Steps(Console(width=40), 2) as steps:
        steps.begin("first [of] two")
        steps.tick("within")
        steps.end()
        steps.begin("second")
        steps.end()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("[1/2 0 s] first [of] two")


def test_the_script_itself(tmp_path: Path) -> None:
    """Started as a user starts it, from another folder: one line, exit code 2, no traceback."""
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, str(RUN), "--net", "VGG"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: --net: got 'VGG', allowed are A, A-LRN, B, C, D, E\n"
    assert list(tmp_path.iterdir()) == []
