"""CUDA kernels compiled at first use, where the extension was built without nvcc.

CuPy compiles the sources of ``csrc/cuda`` with NVRTC for the GPU that is there and keeps the result
on disk. The headers become one text, so that CuPy's cache sees every change of them.
"""

from __future__ import annotations

import importlib
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

# Beside this package in a wheel, beside it in the repository otherwise.
_ROOTS = (
    Path(__file__).resolve().parents[1] / "csrc",
    Path(__file__).resolve().parents[2] / "csrc",
)
_INCLUDE = re.compile(r'^#include "([^"]+)"\n', re.MULTILINE)
OPTIONS = ("-std=c++17",)
# Which file holds a kernel, by the beginning of its name.
_FILES = {
    "maxpool2x2": "cuda/maxpool2x2.cuh",
    "lrn": "cuda/lrn.cuh",
    "sgd": "cuda/sgd.cuh",
    "cross_entropy": "cuda/cross_entropy.cuh",
    "crop": "cuda/crop.cuh",
    "first_conv": "cuda/first_conv.cuh",
}


class CompileError(Exception):
    """NVRTC refused a kernel; the message is its first line that tells of an error."""


def file_of(name: str) -> str:
    """The file in ``csrc`` that holds the kernel ``name``."""
    return next(f for prefix, f in _FILES.items() if name.startswith(prefix))


def source(name: str) -> str:
    """The text that NVRTC compiles for the kernel ``name``: its file with all it includes."""
    # Kernels are named without their namespace.
    return _text(file_of(name)) + "\nusing namespace vggfast;\n"


@lru_cache(maxsize=len(_FILES))
def _text(file: str) -> str:
    root = next((r for r in _ROOTS if (r / file).exists()), None)
    if root is None:
        raise FileNotFoundError(f"{file}: the sources of the CUDA kernels are not installed")
    seen: set[str] = set()

    def expand(path: str) -> str:
        if path in seen:
            return ""
        seen.add(path)
        text = (root / path).read_text(encoding="utf-8").replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda found: expand(found.group(1)), text)

    return expand(file)


@lru_cache(maxsize=256)
def _kernel(name: str) -> Any:
    cupy = importlib.import_module("cupy")
    try:
        module = cupy.RawModule(
            code=source(name), options=OPTIONS, backend="nvrtc", name_expressions=[name]
        )
        return module.get_function(name)
    except Exception as error:  # CuPy's own class, which is nowhere else
        if type(error).__name__ != "CompileException":
            raise
        lines = str(error).splitlines() or [repr(error)]
        told = next((line for line in lines if "error" in line), lines[0])
        raise CompileError(f"NVRTC: {told.strip()}") from error


def launch(name: str, blocks: tuple[int, int], threads: int, params: bytes, stream: int) -> None:
    """Run a kernel on ``stream``, a cudaStream_t of the current device."""
    cupy = importlib.import_module("cupy")
    # CuPy passes an array of one element by value, of any dtype.
    argument = np.frombuffer(params, dtype=np.dtype((np.void, len(params))))
    with cupy.cuda.ExternalStream(stream):
        _kernel(name)(blocks, (threads,), (argument,))
