"""bench/cuda_kernels.py: its cases are right, in the emulator; what it says without a GPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))

import cuda_kernels as command
from harness import cuda_cases
from harness.cuda_case import Case, Where, check

from vggfast.backends import cuda_kernels, native

NAMES = [
    "maxpool2x2 64 ch.", "maxpool2x2 backward 64 ch.", "lrn 64 ch.", "lrn backward 64 ch.",
    "crop_images", "sgd VGG-A", "sgd VGG-D", "cross_entropy", "conv1_1", "conv1_1 wgrad",
]  # fmt: skip


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.module().build_config()["cuda_emulated"]:
        pytest.skip("the emulator needs Linux")
    monkeypatch.setenv("VGGFAST_CUDA_EMULATE", "1")


def small(dtype: torch.dtype) -> Where:
    return Where(torch.device("cpu"), dtype, side=32, width=64)


def named(name: str, dtype: torch.dtype = torch.bfloat16) -> Case:
    return next(c for c in cuda_cases.cases(small(dtype)) if c.name == name)


def test_every_kernel_has_a_case() -> None:
    at = Where(torch.device("cpu"), torch.bfloat16)
    found = list(cuda_cases.cases(at))
    assert [c.name for c in found[: len(NAMES)]] == NAMES
    convs = found[len(NAMES) :]
    assert [c.name for c in convs] == [
        "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_4", "conv4_1", "conv4_2",
        "conv4_4", "conv5_1", "conv5_4",
    ]  # fmt: skip
    reason = "its conv3x3 beyond a first layer is not emulated, it needs a GPU"
    assert {c.absent for c in convs} == {reason}
    assert [c.asked for c in found[:7]] == [(0.85, 1.3)] * 7
    assert named("conv1_1").asked == (None, 2.0)
    assert {c.name for c in convs if c.asked == (None, 1.0)} >= {"conv3_2", "conv4_2", "conv5_1"}
    assert convs[0].asked == (None, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_ours_is_right_and_a_wrong_result_is_told(name: str, dtype: torch.dtype) -> None:
    if name.startswith("lrn") and dtype is torch.bfloat16:
        pytest.skip("torch's own has no bfloat16 on a CPU")
    case = named(name, dtype)
    assert check(case, 2) == []

    def build(images: int):
        built = case.build(images)
        return replace(built, ours=lambda: [1.05 * t.detach() for t in built.ours()])

    (line, *_) = check(replace(case, build=build), 2)
    assert line.startswith(f"{name}, result ")


def test_the_copy_is_of_the_least_bytes() -> None:
    at = small(torch.bfloat16)
    elements = 2 * 64 * 32 * 32
    pooled = elements // 4
    assert named("maxpool2x2 64 ch.").build(2).nbytes == 2 * elements + 2 * pooled + pooled // 4
    assert named("lrn backward 64 ch.", torch.float32).build(2).nbytes == 3 * 4 * elements
    assert named("crop_images").build(2).nbytes == 2 * at.side**2 * 3 * 3
    assert named("conv1_1").build(2).flop == 2 * 27 * 64 * 2 * 32 * 32


def test_a_wrong_kernel_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cuda_kernels, "lrn", lambda x, *_: x.clone())
    assert command.run([named("lrn 64 ch.", torch.float32)], small(torch.float32), 5.0) == 1
    said = capsys.readouterr()
    assert "lrn 64 ch., result 0: error" in said.err
    assert said.err.endswith("nothing was timed\n")


def test_a_block_of_lines_a_kernel() -> None:
    class Ticks:
        waited = 0

        def wait(self) -> None:
            self.waited += 1

        def measure(self, work) -> list[float]:
            assert len(work()) == 1
            return [2.0, 1.0, 0.25]

    case = named("conv1_1")
    ticks = Ticks()
    built = case.build(1)
    lines = command.rows(replace(case, images=1, build=lambda n: built), ticks, 1000.0, 0.0)
    gbps = built.nbytes / 1.0 / 1e6
    assert ticks.waited == 1
    assert lines[0].split()[:3] == ["conv1_1", "vggfast", "1.0000"]
    assert lines[0].split()[3:5] == [f"{gbps:.0f}", f"{gbps / 1000:.1%}"]
    assert lines[1].split()[:2] == ["conv1_1", "torch"]
    assert lines[2] in ("  asked: 2x torch: met", "  asked: 2x torch: missed")


@pytest.mark.parametrize("reason", [None, "why"])
def test_a_kernel_that_hangs_is_left_out(
    reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.probe, "first_calls", lambda: reason)
    plain = Case("x", 1, lambda n: pytest.fail("built"))
    found = command._able([plain, replace(plain, hangs=True)])
    assert [c.absent for c in found] == [None, reason]
    monkeypatch.setattr(command.probe, "first_calls", lambda: pytest.fail("started"))
    assert command._able([plain, replace(plain, hangs=True, absent="no GPU")])[1].absent == "no GPU"


def test_what_is_asked() -> None:
    case = Case("x", 1, lambda n: pytest.fail("built"), (0.85, 1.3))
    met = command.verdicts(case, {"vggfast": 1.0, "a": 1.4, "b": 1.5}, 0.9)
    assert met == ["  asked: 85% of copy: met, 1.3x a: met"]
    missed = command.verdicts(case, {"vggfast": 1.0, "a": 1.2}, 0.8)
    assert missed == ["  asked: 85% of copy: missed, 1.3x a: missed"]
    conv = replace(case, asked=(None, 1.0))
    assert command.verdicts(conv, {"vggfast": 1.0, "torch": 0.9, "triton": 1.1}, 0.1) == [
        "  asked: 1x triton: met"
    ]
    assert command.verdicts(replace(case, asked=(None, None)), {"vggfast": 1.0}, 0.1) == []


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--dtype", "fp8"], "--dtype: got 'fp8', allowed are bf16, fp16, fp32"),
        (["--seconds", "1"], "--seconds: got '1', allowed are whole numbers from 5"),
        ([], "the CUDA kernels cannot be timed here: they are emulated"),
        (["--what"], "unrecognized arguments: --what (see --help)"),
    ],
)
def test_bad_input(argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(argv) == 2
    assert capsys.readouterr().err == f"error: {reason}\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("VGGFAST_CUDA_EMULATE")
    assert command.main([]) == 2
    assert "cannot be timed here: there is no NVIDIA GPU" in capsys.readouterr().err
