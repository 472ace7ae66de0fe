"""Timing one call. Caches are flushed before every call, so that no contender starts warm.

Every contender is treated alike: a call is timed alone, from cold caches, after a warm-up.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch

Work = Callable[[], object]
Finish = Callable[[Work], Work]  # from a call that may return early to one that does not

CPU_FLUSH_BYTES = 64 << 20  # two times the 32 MB last-level cache of a common server's core complex
# Threads of OpenMP spin up to 8 ms after a call, those of the flush too: engines that have threads
# of their own would share a core with them.
SETTLE_SECONDS = 0.02
GPU_CALLS = 10  # calls queued between two synchronisations, so that the queue stays full


class Clock(Protocol):
    warm_ups: int  # calls before the first timed one

    def measure(self, work: Work, calls: int) -> list[float]:
        """Seconds of each of ``calls`` calls."""

    def calls(self, seconds: float) -> int:
        """How many calls to measure in one go when one takes about ``seconds``."""

    def wait(self) -> None:
        """Return when all queued work is done."""


class CpuClock:
    """Wall clock. ``settle``: seconds to idle between the flush and the call."""

    warm_ups = 1

    def __init__(self, settle: float = 0.0) -> None:
        self._flush = torch.empty(CPU_FLUSH_BYTES, dtype=torch.uint8)
        self._settle = settle

    def measure(self, work: Work, calls: int) -> list[float]:
        samples = []
        for i in range(calls):
            self._flush.fill_(i)
            if self._settle:
                time.sleep(self._settle)
            start = time.perf_counter()
            result = work()
            samples.append(time.perf_counter() - start)
            del result  # freeing a large output is not the kernel's time
        return samples

    def calls(self, seconds: float) -> int:
        return 1

    def wait(self) -> None:
        """A CPU call returns when it is done."""


class CudaClock:
    """CUDA events around each call; a buffer of twice the L2 cache is written before each."""

    warm_ups = 3  # by the third, cuDNN has chosen its algorithms and lazy loading is done

    def __init__(self, device: torch.device) -> None:
        l2 = torch.cuda.get_device_properties(device).L2_cache_size
        self._device = device
        self._flush = torch.empty(max(2 * l2, 64 << 20), dtype=torch.uint8, device=device)

    def measure(self, work: Work, calls: int) -> list[float]:
        starts = [torch.cuda.Event(enable_timing=True) for _ in range(calls)]
        ends = [torch.cuda.Event(enable_timing=True) for _ in range(calls)]
        for start, end in zip(starts, ends, strict=True):
            self._flush.zero_()
            start.record()
            work()
            end.record()
        self.wait()
        return [s.elapsed_time(e) / 1e3 for s, e in zip(starts, ends, strict=True)]

    def calls(self, seconds: float) -> int:
        return max(1, min(GPU_CALLS, int(0.2 / max(seconds, 1e-6))))

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)


def clock_for(device: torch.device, settle: float = 0.0) -> Clock:
    return CudaClock(device) if device.type == "cuda" else CpuClock(settle)
