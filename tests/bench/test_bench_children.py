"""Contenders in processes of their own: memory, and two settings in turns."""

from __future__ import annotations

import mmap
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import child, compare, isa, memory, options, rss
from harness.child import Child, ChildError, Job
from harness.contest import OURS, Rounds

ONCE = Rounds(0.01, least=2, most=2, insist=True)
MIB = 1 << 20


@pytest.fixture
def tiny(tmp_path: Path) -> options.Options:
    argv = ["--net", "A", "--size", "32", "--batch", "1", "--device", "cpu", "--threads", "2"]
    return options.parse([*argv, "--out", str(tmp_path)])


def test_the_peak_is_seen_after_it_is_gone() -> None:
    blocks: list[int] = []

    def work() -> None:
        # from the kernel: malloc may hand out memory that earlier tests freed and left resident
        with mmap.mmap(-1, 64 * MIB) as block:
            for page in range(0, len(block), mmap.PAGESIZE):
                block[page] = 1
            blocks.append(len(block))

    found = rss.peak(work, 2)
    assert len(blocks) == 2
    if not found["forgot"]:
        pytest.skip("this kernel does not let a process forget its peak")
    assert 60 * MIB < found["peak"] - found["before"] < 100 * MIB


def test_memory_of_both_sides(tiny: options.Options) -> None:
    found = memory.measure("inference", 1, tiny)
    assert found.skipped == {}
    assert set(found.peak) == {OURS, "torch channels_last"}
    for name, most in found.peak.items():
        assert most >= found.before[name] > 100 * MIB
    ratio = found.ratio("torch channels_last")
    assert ratio == found.peak["torch channels_last"] / found.peak[OURS]


@pytest.mark.long
def test_both_sides_have_the_rounded_weights(tiny: options.Options) -> None:
    found = compare.compare("isa", "inference", 1, replace(tiny, weights="bf16"), ONCE)
    assert found.outcome.skipped == {}
    assert set(found.outcome.times) == {OURS, "torch channels_last"}


@pytest.mark.long
def test_two_processes_in_turns_with_the_same_weights(tiny: options.Options) -> None:
    found = compare.compare("threads", "training", 2, tiny, ONCE)
    assert found.outcome.skipped == {}
    assert {n: s.n for n, s in found.outcome.times.items()} == {OURS: 2, "vggfast, 1 thread": 2}
    assert found.outcome.paired["vggfast, 1 thread"].n == 2
    assert "VGGFAST_CPU_ISA" not in os.environ or os.environ["VGGFAST_CPU_ISA"] != "avx2"


@pytest.mark.long
@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"), reason="no AVX2 here"
)
def test_both_sides_keep_to_avx2(tiny: options.Options) -> None:
    found = compare.compare(
        "isa", "inference", 2, tiny, ONCE
    )  # oneDNN leaves one tiny image to torch
    assert found.outcome.skipped == {}
    assert "torch: AVX2" in found.isa["torch channels_last"]
    assert any(line.startswith("oneDNN: ") for line in found.isa["torch channels_last"])
    assert all(isa.beyond_avx2(told) is None for told in found.isa.values())


def test_a_limit_that_does_not_hold_is_seen() -> None:
    for line in ("oneDNN: Intel AVX10.1 and Intel AMX", "torch: AVX512", "MKL: (Intel(R) AVX-512)",
                 "oneDNN convolution: brg_conv_fwd:avx512_core"):  # fmt: skip
        with pytest.raises(ChildError, match="did not hold"):
            compare._limited("isa", ["torch: AVX2", line])
    compare._limited("isa", ["vggfast: own avx2 kernel", "MKL: Extensions 2 (Intel(R) AVX2)"])
    compare._limited("threads", ["torch: AVX512"])


def test_sides_that_differ_are_seen(tiny: options.Options) -> None:
    a = {"digest": 1.0, "logits": np.ones((1, 3), np.float32)}
    compare._same([a, a], tiny)
    with pytest.raises(ChildError, match="weights or images"):
        compare._same([a, {**a, "digest": 1.1}], tiny)
    with pytest.raises(ChildError, match=r"wrong: its logits differ by 0\.01"):
        compare._same([a, {**a, "logits": a["logits"] * 1.01}], tiny)


def test_a_child_that_fails_or_ends_says_so(tiny: options.Options) -> None:
    failing = Child(Job("onnxruntime", "training", 1, tiny))
    with failing, pytest.raises(ChildError, match=r"does not train|not installed"):
        failing.ask("facts")
    killed = Child(Job(OURS, "inference", 1, tiny))
    killed._process.kill()
    with killed, pytest.raises(ChildError, match="exit code -9"):
        killed.ask("facts")


def test_the_environment_is_put_back() -> None:
    before = dict(os.environ)
    with child._environment({"VGGFAST_CPU_ISA": "avx2"}):
        assert os.environ["VGGFAST_CPU_ISA"] == "avx2"
    assert dict(os.environ) == before
