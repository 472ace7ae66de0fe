"""A convolution in CUDA C++ that hangs or fails takes no run of the tuner along."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from vggfast.kernels import external, tuned

import vggfast
from vggfast import backends
from vggfast.tune import cli, probe


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel that says it can run."""
    backends.get("triton").unavailable()  # offers ours when it is first asked
    there = external.Kernel(lambda: None, lambda *_: pytest.fail("called"))
    monkeypatch.setattr(external, "_offered", there)
    tuned.reload()
    yield
    monkeypatch.undo()
    tuned.reload()


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        ("pass", None),
        ("import time; time.sleep(60)", "did not end in 0.5 s"),
        ("import os; os._exit(3)", "failed: exit code 3"),
        ("raise RuntimeError('CUDA: wrong')", "failed: RuntimeError: CUDA: wrong"),
    ],
)
def test_what_the_first_calls_do(
    calls: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_CALLS", calls)
    told = probe.first_calls(0.5 if "sleep" in calls else 60.0)
    expected = None if reason is None else f"its first calls, in a process of their own, {reason}"
    assert told == expected


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("reason", [None, "why"])
def test_a_kernel_that_fails_is_offered_no_more(
    reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "first_calls", lambda: reason)
    assert probe.guard() == reason
    assert external.absent() == reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_nothing_is_started_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: pytest.fail("started"))
    assert probe.guard() is None


@pytest.mark.usefixtures("offered")
def test_the_tuner_says_so(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "first_calls", lambda: "why")
    monkeypatch.setattr(cli.run, "tune", lambda *_: cli.run.Outcome())
    cli.main(
        ["--net", "A", "--batch", "1", "--size", "32", "--dtype", "fp32", "--ops", "wgrad",
         "--layers", "conv1_1", "--seconds", "60", "--out", str(tmp_path / "t.json")]
    )  # fmt: skip
    assert "warning: the convolution in CUDA C++ is left out: why" in capsys.readouterr().out


def test_the_process_has_the_vggfast_of_this_one(tmp_path, monkeypatch) -> None:
    """From any folder, installed or not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(
        probe, "_CALLS", f"import vggfast; assert vggfast.__file__ == {vggfast.__file__!r}"
    )
    assert probe.first_calls(60.0) is None


def test_the_calls_are_python() -> None:
    compile(probe._CALLS, "calls", "exec")
    assert sys.executable
