"""The constants of a GPU, each with where it is from: a prediction is no better than they are."""

from __future__ import annotations

from dataclasses import dataclass

ELEMENT = {"bf16": 2, "fp16": 2, "fp32": 4}  # bytes


@dataclass(frozen=True)
class Hardware:
    """Rates in operations or bytes a second, times in seconds."""

    name: str
    capability: str
    arch: int  # generation of the tile table
    multiprocessors: int
    flops: dict[str, float]  # of products, by dtype
    ieee: float  # of float32 products on the ordinary cores, which the first layer has
    memory: float
    l2: float  # into shared memory, all multiprocessors together
    l2_each: float  # the same of one multiprocessor at most
    launch: float  # from the end of a kernel to the start of the next one in the same stream
    sources: dict[str, str]


H100 = Hardware(
    name="NVIDIA H100 80GB HBM3",
    capability="9.0",
    arch=90,
    multiprocessors=132,
    flops={"bf16": 798e12, "fp16": 798e12, "fp32": 133e12},
    ieee=66.9e12,
    memory=3.0e12,
    l2=5.5e12,
    l2_each=64 * 1.755e9,
    launch=3e-6,
    sources={
        "flops": "bf16: a GEMM of 8192^3 measured on such a GPU, fp16 taken as equal; fp32: a "
        "third of the data sheet's 495 TFLOP/s of TF32 (three products for one: TF32 is off), less "
        "the share that the GEMM in bf16 missed of its 989",
        "ieee": "data sheet",
        "memory": "a copy measured on such a GPU",
        "l2": "a common figure for reads that hit, not measured here: a lead, not a fact",
        "l2_each": "64 bytes a clock at 1755 MHz, not measured here",
        "launch": "assumed; the host's own pace is left out, and at batch 1 it may be the longer",
    },
)
