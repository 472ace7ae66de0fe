"""No error of the CUDA runtime is left for the next call: the host code on a runtime that fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
FAKE = HERE / "cuda_runtime"
WAYS_IN = ("launch", "multiprocessors", "pack", "conv3x3")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler})")
    built: Path = tmp_path_factory.mktemp("errors") / "errors"
    folders = (FAKE, HERE / "sm90_emulator", HERE.parents[1] / "csrc")
    subprocess.run(
        [compiler, "-std=c++17", "-O1", *(f"-I{f}" for f in folders), str(FAKE / "errors.cpp"),
         "-o", str(built), "-lpthread"],
        check=True,
    )  # fmt: skip
    return built


def told(program: Path, fails: str) -> dict[str, tuple[str, str]]:
    """(what it said, what is left) of each way in, when the call named ``fails``."""
    done = subprocess.run(
        [program], env={**os.environ, "FAIL": fails}, capture_output=True, text=True, check=True
    )
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return {name: (said, left) for name, said, left in rows}


@pytest.mark.parametrize(
    ("fails", "where"),
    [
        ("nothing", ()),
        ("cudaLaunchKernel", ("launch",)),
        ("cudaGetDevice", ("multiprocessors",)),
        ("cudaDeviceGetAttribute", ("multiprocessors",)),
        ("cudaLaunchKernelEx", ("pack", "conv3x3")),
        ("cudaFuncSetAttribute", ("conv3x3",)),
    ],
)
def test_an_error_is_told_once_and_not_left(
    program: Path, fails: str, where: tuple[str, ...]
) -> None:
    found = told(program, fails)
    assert tuple(found) == WAYS_IN
    for name, (said, left) in found.items():
        assert said == (fails if name in where else "-"), name
        assert left == "-", name


def test_a_driver_without_tensor_maps_is_told(program: Path) -> None:
    found = told(program, "cudaGetDriverEntryPointByVersion")
    reason = "the driver has no cuTensorMapEncodeTiled (CUDA 12.0 or later)"
    assert found["conv3x3"] == (reason, "-")
