"""Limiting ours and torch's libraries to AVX2, and asking them whether the limit holds."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import tempfile
from collections.abc import Callable

import torch

AVX2 = {
    "VGGFAST_CPU_ISA": "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # products of matrices
}
BEYOND_AVX2 = re.compile(r"avx[ _-]?512|avx10|amx|avx2_vnni", re.IGNORECASE)
ONEDNN = re.compile(r"info,cpu,isa:(.*)")
KERNEL = re.compile(r"primitive,exec,cpu,(convolution|inner_product|matmul),([^,]*)")
MKL = re.compile(r"64 architecture (.*?)(?: with | enabled)")


def witness(work: Callable[[], object]) -> tuple[object, list[str]]:
    """What ``work`` returns, and what torch's libraries say they ran it on."""
    result, log = _verbose(work)
    told = [f"torch: {torch.backends.cpu.get_cpu_capability()}"]
    told += [f"oneDNN: {m}" for m in ONEDNN.findall(log)[:1]]
    told += [f"oneDNN {op}: {kernel}" for op, kernel in dict.fromkeys(KERNEL.findall(log))]
    told += [f"MKL: {m}" for m in MKL.findall(log)[:1]]
    return result, told


def beyond_avx2(told: list[str]) -> str | None:
    """The first of what was told that is more than AVX2, if any."""
    return next((line for line in told if BEYOND_AVX2.search(line)), None)


def _verbose(work: Callable[[], object]) -> tuple[object, str]:
    """Both libraries write to C's stdout: it goes to a file for the time of the call."""
    dnn, mkl = torch.backends.mkldnn, torch.backends.mkl
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        os.dup2(file.fileno(), 1)
        try:
            with dnn.verbose(dnn.VERBOSE_ON), mkl.verbose(mkl.VERBOSE_ON):
                result = work()
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return result, file.read()
