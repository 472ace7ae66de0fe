"""What the machine can do at most, measured with torch: large products, a copy of a large buffer.

On some CPUs the library's GEMM is far slower than its convolution, so both are timed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from harness.clock import Clock, Work
from harness.options import Options
from harness.stats import summarise

SAMPLES = 5
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}
CONV_SHAPE = {"cpu": (2, 256, 56), "cuda": (64, 512, 56)}  # N, C_in = C_out, H = W
COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}


@dataclass(frozen=True)
class Ceilings:
    """TFLOP/s of a square GEMM and of a 3x3 convolution, both in the run's dtype; GB/s of a copy.

    The operations of the direct algorithm are counted; a copy reads and writes.
    """

    gemm_size: int
    gemm_tflops: float
    conv_tflops: float
    copy_gbps: float

    @property
    def roof_tflops(self) -> float:
        return max(self.gemm_tflops, self.conv_tflops)


def measure(options: Options, clock: Clock) -> Ceilings:
    """The best of a few repetitions of each, by torch's library."""
    m = GEMM_SIZE[options.device.type]
    a = torch.randn(m, m, device=options.device).to(options.dtype)
    b = torch.randn(m, m, device=options.device).to(options.dtype)
    product = torch.empty_like(a)
    gemm = _best(clock, lambda: torch.mm(a, b, out=product))
    n, c, side = CONV_SHAPE[options.device.type]
    x = torch.randn(n, c, side, side, device=options.device).to(options.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randn(c, c, 3, 3, device=options.device).to(options.dtype)
    w = w.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        conv = _best(clock, lambda: F.conv2d(x, w, padding=1))
    copied = copy_gbps(options.device, clock)
    operations = 2 * n * side * side * 9 * c * c
    return Ceilings(m, 2 * m**3 / gemm / 1e12, operations / conv / 1e12, copied)


def copy_gbps(device: torch.device, clock: Clock) -> float:
    """GB/s of a copy of a large buffer, which reads and writes."""
    size = COPY_BYTES[device.type]
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * size / _best(clock, lambda: target.copy_(source)) / 1e9


def _best(clock: Clock, work: Work) -> float:
    for _ in range(clock.warm_ups):
        work()
    return summarise(clock.measure(work, SAMPLES)).low
