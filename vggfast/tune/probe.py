"""The first calls of the convolution in CUDA C++, in a process of their own.

It waits on barriers for copies: where one never came it would wait for ever, and a run with it. So
a run that may call it lets another process go first.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from vggfast.backends import cuda_conv
from vggfast.kernels import external, tuned

SECONDS = 90.0  # imports and a context take up to twenty
_CALLS = """
import torch
from vggfast.backends import cuda_conv
x = torch.zeros(3, 64, 30, 58, device="cuda", dtype=torch.bfloat16)
x = x.contiguous(memory_format=torch.channels_last)
for c_out in (64, 128):
    w = torch.zeros(c_out, 64, 3, 3, device="cuda", dtype=torch.bfloat16)
    for pool in (False, True):
        for cluster in (1, 2):
            cuda_conv.run(x, w, None, True, pool, pool, False, cluster)
torch.cuda.synchronize()
"""


def first_calls(seconds: float = SECONDS) -> str | None:
    """Why the kernel should not be called in this process, or None: it ended, and without error."""
    # This checkout's vggfast, though nobody installed it and the command runs somewhere else.
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CALLS], capture_output=True, text=True, check=False,
            timeout=seconds, env={**os.environ, "PYTHONPATH": paths},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"its first calls, in a process of their own, did not end in {seconds:g} s"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"its first calls, in a process of their own, failed: {said[-1]}"


def guard() -> str | None:
    """Let no tile of form "cuda" run in this process if its first calls do not; says why."""
    if external.absent() is not None:
        return None
    reason = first_calls()
    if reason is not None:
        external.offer(external.Kernel(lambda: reason, cuda_conv.run))
        tuned.reload()
    return reason
