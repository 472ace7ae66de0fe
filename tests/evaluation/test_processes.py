"""Several processes share an evaluation; one that is killed leaves whole files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vggfast
from vggfast.evaluate.cli import main
from vggfast.evaluation.scores import read

pytest.importorskip("pyarrow")

ROOT = Path(vggfast.__file__).parents[1]
COMMAND = [str(Path(__file__).with_name("narrow_command.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(*argv: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, *COMMAND, *argv],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip


def test_two_processes_are_one(net: Path, photos: Path, tmp_path: Path) -> None:
    """Seven images, so that the shares differ; figures are the same, scores but for rounding."""

    def options(name: str) -> list[str]:
        common = ["--weights", str(net), "--data", str(photos), "--device", "cpu", "--quiet"]
        common += ["--protocol", "both", "--scales", "32,40"]
        return [*common, "--scores", str(tmp_path / name), "--json", str(tmp_path / f"{name}.json")]

    done = torchrun(*options("two"))
    assert done.returncode == 0, done.stderr
    assert main(options("one")) == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two
    found = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert found == sorted(p.name for p in (tmp_path / "two").iterdir())
    for name in found:
        a, b = read(tmp_path / "one" / name), read(tmp_path / "two" / name)
        assert a.names == b.names
        assert torch.equal(a.labels, b.labels)
        torch.testing.assert_close(a.posteriors, b.posteriors, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_bad_input_ends_both_processes(net: Path, photos: Path, tmp_path: Path) -> None:
    """An image that only the second process reads."""
    bad = sorted((photos / "val").rglob("*.png"))[1]
    bad.write_bytes(b"nothing")
    common = ["--weights", str(net), "--data", str(photos), "--device", "cpu", "--scales", "32"]
    done = torchrun(*common, "--quiet")
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert bad.name in lines[0]


@pytest.mark.long
def test_a_killed_run_leaves_whole_files_and_is_continued(
    net: Path, photos: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "scores"
    scales = ",".join(str(q) for q in range(32, 132, 2))
    argv = ["--weights", str(net), "--data", str(photos), "--device", "cpu", "--scales", scales]
    argv += ["--scores", str(kept), "--quiet"]
    for least in (1, 4, 9):
        process = subprocess.Popen([sys.executable, *COMMAND, *argv], env=ENVIRONMENT)
        until = time.monotonic() + 60
        while len(list(kept.glob("*.parquet"))) < least and time.monotonic() < until:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        files = list(kept.glob("*.parquet"))
        assert least <= len(files) < 50
        assert all(len(read(path).names) == 7 for path in files)
    written = {path: path.stat().st_mtime_ns for path in files}
    done = subprocess.run([sys.executable, *COMMAND, *argv], env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0
    assert len(list(kept.glob("*.parquet"))) == 50
    assert all(path.stat().st_mtime_ns == when for path, when in written.items())
