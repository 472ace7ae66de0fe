"""bench/roofline.py --against: a result of the benchmark beside the prediction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import roofline
from counted import against, model
from counted.hardware import H100
from harness import options


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
