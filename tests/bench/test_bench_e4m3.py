"""--dtype e4m3: who gets it, what its checks catch, and a tiny run, emulated on the CPU."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness import ceilings, e4m3, endtoend, networks, options, session
from harness.cases import group
from harness.cli import main
from harness.options import Options
from harness.oracle import oracle
from rich.console import Console

from vggfast import reference
from vggfast.quantization import emulated

ARGV = ["--net", "A", "--size", "32", "--quick", "--batch", "2", "--device", "cpu"]


@pytest.fixture
def chosen(tmp_path: Path) -> Iterator[Options]:
    """The options of such a run as a GPU would have them, on the CPU and emulated."""
    o = options.parse([*ARGV, "--peers", "none", "--dtype", "bf16", "--out", str(tmp_path)])
    with emulated():
        yield replace(o, dtype_name="e4m3", train_batch=0)


def test_refused_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([*ARGV, "--dtype", "e4m3", "--out", str(out)]) == 2
    assert capsys.readouterr().err == (
        "error: --dtype: got 'e4m3' on cpu, allowed are fp32, bf16, fp16 (it needs an NVIDIA GPU)\n"
    )
    assert not out.exists()


def test_refused_for_layers_and_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: Options
) -> None:
    gpu = replace(chosen, device=torch.device("cuda", 0))
    monkeypatch.setattr(options.e4m3, "why_not", lambda device: "this GPU has 8.0")
    with pytest.raises(options.InputError, match=r"'e4m3' on cuda:0, .* \(this GPU has 8.0\)"):
        options._check_e4m3(gpu, None)
    monkeypatch.setattr(options.e4m3, "why_not", lambda device: None)
    options._check_e4m3(gpu, None)
    with pytest.raises(options.InputError, match=r"^--layers: got it with --dtype e4m3"):
        options._check_e4m3(replace(gpu, layers_only=True), None)
    with pytest.raises(options.InputError, match=r"^--train-batch: got it with --dtype e4m3"):
        options._check_e4m3(gpu, "4")


@pytest.mark.long
def test_a_tiny_run(chosen: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(session.LIMITS, ("cpu", True), 1.0)
    monkeypatch.setitem(ceilings.GEMM_SIZE, "cpu", 64)
    monkeypatch.setitem(ceilings.CONV_SHAPE, "cpu", (1, 16, 7))
    monkeypatch.setitem(ceilings.COPY_BYTES, "cpu", 1 << 16)
    monkeypatch.setattr(endtoend, "DRAWS", 3)
    printed = io.StringIO()
    session.run(chosen, Console(file=printed, width=160))
    (path,) = chosen.out.glob("A_cpu_e4m3_quick_*.json")
    record = json.loads(path.read_text())
    (cost,) = record["numerics"]["cost_of_e4m3"]
    assert (cost["batch"], cost["images"]) == (2, 2)
    assert 0.005 < cost["relative_error"] < 0.2
    assert f"batch 2: logits moved by {cost['relative_error']:.1e}" in printed.getvalue()
    assert "bf16, vggfast's 3x3 convolutions e4m3" in printed.getvalue()
    assert record["layers"] == []
    assert [n["kind"] for n in record["networks"]] == ["inference"]
    (logits,) = [c for c in record["numerics"]["checks"] if c["case"].endswith("e4m3")]
    assert logits["passed"]
    assert 0.005 < logits["baseline_error"] < logits["bound"] < 0.5
    layers = [c for c in record["numerics"]["checks"] if "e4m3, against float64" in c["case"]]
    assert len(layers) == 7
    assert all(c["passed"] and c["error"] < 1e-6 for c in layers)


def test_checks_catch_wrong_numbers(chosen: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.conv3x3_e4m3
    layer = group(chosen.layers())[1]
    (check,) = e4m3.check_layer(layer, chosen)
    assert check.passed

    def wrong(x, w, scale, *rest, **named):  # type: ignore[no-untyped-def]
        return right(x, w, 1.01 * scale, *rest, **named)

    monkeypatch.setattr(reference, "conv3x3_e4m3", wrong)
    (check,) = e4m3.check_layer(layer, chosen)
    assert not check.passed
    monkeypatch.undo()

    model = networks.build(chosen)
    run = networks.inference_form(model, chosen)
    x = networks.images(2, chosen, chosen.dtype)
    known = oracle(model.state_dict(), x, chosen)
    y = networks.ours(run, x)()
    assert e4m3.check(run, y, x, known).passed
    assert not e4m3.check(run, 1.5 * y, x, known).passed
    assert not e4m3.check(run, y.roll(1, 1), x, known).passed
    assert not e4m3.check(run, torch.full_like(y, float("nan")), x, known).passed
    assert e4m3.held(run, x, known).bound == e4m3.check(run, y, x, known).bound
