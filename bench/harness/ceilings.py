"""What the machine can do at most, measured: a large matrix product, a copy of a large buffer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.clock import Clock, Work
from harness.options import Options
from harness.stats import summarise

SAMPLES = 5
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class Ceilings:
    """TFLOP/s of a square GEMM in the run's dtype, GB/s of a copy (bytes read and written)."""

    gemm_size: int
    gemm_tflops: float
    copy_gbps: float


def measure(options: Options, clock: Clock) -> Ceilings:
    """The best of a few repetitions of each, by torch's library."""
    m, size = GEMM_SIZE[options.device.type], COPY_BYTES[options.device.type]
    a = torch.randn(m, m, device=options.device).to(options.dtype)
    b = torch.randn(m, m, device=options.device).to(options.dtype)
    product = torch.empty_like(a)
    gemm = _best(clock, lambda: torch.mm(a, b, out=product))
    source = torch.zeros(size, dtype=torch.uint8, device=options.device)
    target = torch.zeros_like(source)
    copy = _best(clock, lambda: target.copy_(source))
    return Ceilings(m, 2 * m**3 / gemm / 1e12, 2 * size / copy / 1e9)


def _best(clock: Clock, work: Work) -> float:
    for _ in range(clock.warm_ups):
        work()
    return summarise(clock.measure(work, SAMPLES)).low
