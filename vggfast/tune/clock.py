"""Timing one call alone, from a cold L2."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], object]

# The GPU idles this many of its clock ticks before a timed call, half a millisecond or so: the host
# has queued all kernels of the call by then, and its own pace is not measured.
HEAD_START = 1_000_000
CALLS = 5  # calls between two synchronisations


class Clock(Protocol):
    caveat: str | None  # what a reader of the times must know

    def measure(self, work: Work) -> list[float]:
        """Milliseconds of a few calls."""

    def wait(self) -> None:
        """Return when all queued work is done; raises what went wrong in it."""


class CudaClock:
    """CUDA events around each call; a buffer of twice the L2 cache is written before each."""

    caveat: str | None = None

    def __init__(self, device: torch.device) -> None:
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        self._device = device
        self._flush = torch.empty(max(2 * l2, 64 << 20), dtype=torch.uint8, device=device)

    def measure(self, work: Work) -> list[float]:
        starts = [torch.cuda.Event(enable_timing=True) for _ in range(CALLS)]
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(CALLS)]
        for start, end in zip(starts, ends, strict=True):
            self._flush.zero_()
            torch.cuda._sleep(HEAD_START)
            start.record()
            work()
            end.record()
        self.wait()
        return [start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)


class InterpreterClock:
    """Wall clock around Triton's interpreter: it tries the tuner out, and says nothing of a GPU."""

    caveat: str | None = (
        "TRITON_INTERPRET=1: these are times of Triton's interpreter on the CPU and mean nothing; "
        "they are kept under its name and serve no GPU"
    )

    def measure(self, work: Work) -> list[float]:
        start = time.perf_counter()
        work()
        return [1e3 * (time.perf_counter() - start)]

    def wait(self) -> None:
        """The interpreter returns when it is done."""


def clock_for(device: torch.device) -> Clock:
    return CudaClock(device) if device.type == "cuda" else InterpreterClock()
