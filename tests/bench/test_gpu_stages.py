"""The stages of `make gpu`: what they run, within which time, and what they say is missing."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / ".ci" / "gpu"
STAGES = ("test", "sanitize", "tune", "bench", "all")
NINE_MINUTES = 540


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def call(what: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder), "OUT": str(folder / "out"), "ARGS": "",
        "NETS": "E D A", "BATCHES": "1,64,256", "TUNE_BATCHES": "256,64,1,8", "DTYPE": "bf16",
        "CUDA_HOME": str(folder / "cuda"), **variables,
    }  # fmt: skip
    return subprocess.run(
        [str(SCRIPT), what], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def toolkit(tmp_path: Path) -> Path:
    """A folder with an nvcc, a compute-sanitizer and a python whose torch sees a GPU."""
    program(tmp_path / "cuda" / "bin" / "nvcc", "exit 0")
    program(
        tmp_path / "cuda" / "bin" / "compute-sanitizer",
        'while [ "${1#--}" != "$1" ]; do\n'
        '  case "$1" in --tool) echo "tool $2" ;; esac; shift 2\n'
        'done; exec "$@"',
    )
    program(tmp_path / "python", 'echo "ran: $*"')
    return tmp_path


@pytest.mark.parametrize("stage", STAGES)
def test_without_nvcc(stage: str, tmp_path: Path) -> None:
    done = call("check", tmp_path, STAGE=stage, PYTHON="python3", PATH=str(basics(tmp_path)))
    assert done.returncode == 2
    assert done.stderr == (
        f"vggfast: STAGE={stage} needs nvcc, which is neither on PATH nor in CUDA_HOME; install "
        "the CUDA toolkit\n"
    )


def basics(folder: Path) -> Path:
    """A PATH of what the script itself calls, and no CUDA toolkit."""
    place = folder / "basics"
    place.mkdir(exist_ok=True)
    for name in ("bash", "env", "dirname"):
        found = next(p for p in map(Path, (f"/usr/bin/{name}", f"/bin/{name}")) if p.exists())
        (place / name).symlink_to(found)
    return place


@pytest.mark.parametrize("stage", STAGES)
def test_without_a_gpu(stage: str, toolkit: Path) -> None:
    """A torch that can be imported and sees no GPU."""
    python = program(toolkit / "blind", 'case "$2" in *available*) exit 1 ;; esac')
    done = call("check", toolkit, STAGE=stage, PYTHON=str(python))
    assert done.returncode == 2
    assert done.stderr == (
        f"vggfast: STAGE={stage} needs an NVIDIA GPU, and {python}'s torch sees none here\n"
    )
    assert call("check", toolkit, STAGE=stage, PYTHON=str(toolkit / "python")).returncode == 0


def test_without_compute_sanitizer(toolkit: Path) -> None:
    (toolkit / "cuda" / "bin" / "compute-sanitizer").unlink()
    for stage in ("sanitize", "all"):
        done = call("check", toolkit, STAGE=stage, PYTHON=str(toolkit / "python"))
        if done.returncode == 0:
            pytest.skip("this machine has a compute-sanitizer in /usr/bin")
        assert done.returncode == 2
        assert f"STAGE={stage} needs compute-sanitizer" in done.stderr
    assert call("check", toolkit, STAGE="tune", PYTHON=str(toolkit / "python")).returncode == 0


def test_no_such_stage(toolkit: Path) -> None:
    done = call("check", toolkit, STAGE="benhc", PYTHON=str(toolkit / "python"))
    assert (done.returncode, done.stderr) == (
        2, "vggfast: STAGE: got 'benhc', allowed are test, sanitize, tune, bench, all\n"
    )  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_within_nine_minutes(stage: str, toolkit: Path) -> None:
    done = call("run", toolkit, STAGE=stage, PYTHON=str(toolkit / "python"))
    assert done.returncode == 0, done.stderr
    limits = [int(n) for n in re.findall(r"^vggfast: \S+, at most (\d+) s: ", done.stderr, re.M)]
    assert limits
    assert sum(limits) < NINE_MINUTES
    assert list((toolkit / "out").glob("gpu-*.txt"))


def test_what_the_stages_run(toolkit: Path) -> None:
    ran = {}
    for stage in STAGES[:4]:
        done = call("run", toolkit, STAGE=stage, PYTHON=str(toolkit / "python"))
        ran[stage] = re.findall(r"^(?:ran|tool):? (.*)$", done.stdout, re.M)
    whole, gluon, hopper, nvrtc = [line for line in ran["test"] if "pytest" in line]
    assert whole.startswith("-m pytest -q -m not long --durations=20 --tb=short -n ")
    assert " tests/kernels tests/cuda tests --deselect" in whole
    assert "test_triton_gluon.py" in gluon
    assert hopper.endswith("tests/native/test_cuda_conv.py tests/cuda/test_cuda_conv_many.py")
    for path in hopper.split()[-2:]:
        assert f"--ignore {path}" in whole
    assert nvrtc.endswith("tests/cuda")
    case = "-m pytest -q -p no:cacheprovider -m sanitize tests/kernels tests/cuda"
    assert ran["sanitize"] == ["memcheck", case, "racecheck", case]
    assert ran["tune"][0] == (
        "-m vggfast.tune --net E,D,A --batch 256,64,1,8 --dtype bf16 --seconds 450"
    )
    kernels, *networks = ran["bench"]
    assert kernels == "bench/cuda_kernels.py --seconds 40 --dtype bf16"
    seconds = {line.partition("--seconds ")[2].split()[0] for line in networks}
    assert len(seconds) == 1
    assert [line.split()[2] for line in networks] == ["E", "D", "A"]
    assert all(
        "--device cuda --dtype bf16" in line and line.endswith("--batch 1,64,256")
        for line in networks
    )


def test_a_failure_does_not_stop_the_rest_and_is_not_lost(toolkit: Path) -> None:
    python = program(
        toolkit / "failing", 'echo "ran: $*"; case "$*" in *"--net D"*) exit 7 ;; esac'
    )
    done = call("run", toolkit, STAGE="bench", PYTHON=str(python))
    assert done.returncode == 7
    assert "vggfast: gpu-bench-D failed with exit code 7" in done.stderr
    assert [p.name for p in (toolkit / "out").iterdir()] == ["gpu-bench.txt"]
    told = (toolkit / "out" / "gpu-bench.txt").read_text()
    assert all(f"--net {net}" in told for net in "EDA")


def test_the_table_that_was_written_is_kept(toolkit: Path) -> None:
    table = toolkit / "tiles.json"
    table.write_text("measured")
    python = program(toolkit / "tuner", f'case "$*" in *user_path*) echo "{table}" ;; esac')
    assert call("run", toolkit, STAGE="tune", PYTHON=str(python)).returncode == 0
    assert (toolkit / "out" / "tiles.json").read_text() == "measured"


def test_make_says_which_stage_it_does_not_know() -> None:
    done = subprocess.run(
        ["make", "gpu", "STAGE=none"], cwd=ROOT, capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if not k.startswith("MAKE")},
    )  # fmt: skip
    assert done.returncode == 2
    assert "STAGE: got 'none', allowed are test, sanitize, tune, bench, all" in done.stderr
