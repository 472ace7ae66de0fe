"""Time the CUDA C++ kernels on a GPU against torch's own, Triton's convolution and a copy.

    python bench/cuda_kernels.py --dtype bf16

Every kernel is checked against float64 before anything is timed. A timed call starts from a cold L2
and is measured on the device; those compared alternate. "of copy": least bytes over the time, as a
share of what a copy of a large buffer reaches. "asked": what the kernel is held to (docs/cuda.md).
Exit codes: 0, 1 a result is wrong (nothing is timed), 2 bad input or no GPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # `harness`, which is never installed
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))  # `vggfast` of this checkout, where none is installed

import torch  # noqa: E402  - after the path is set
from harness import ceilings, clock, machine  # noqa: E402
from harness.cuda_case import Case, Where, check  # noqa: E402
from harness.cuda_cases import cases  # noqa: E402

from vggfast import InputError  # noqa: E402
from vggfast.backends import cuda_launch  # noqa: E402
from vggfast.command import Parser  # noqa: E402
from vggfast.tune import probe  # noqa: E402
from vggfast.tune.clock import CudaClock  # noqa: E402  - its calls are queued before the GPU begins

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
CHECKED = 2  # images of the numerics
LEAST, MOST = 3, 20  # rounds
HEAD = (
    f"{'kernel':<27} {'by':<14} {'ms':>9} {'GB/s':>7} {'of copy':>8} {'TFLOP/s':>8} {'ours is':>8}"
)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="bench/cuda_kernels.py",
        description="Time the CUDA C++ kernels on a GPU against torch's own.",
        allow_abbrev=False,
    )
    p.add_argument("--dtype", default="bf16", help=f"one of {', '.join(DTYPES)} (bf16)")
    p.add_argument("--only", default="", help="cases whose name contains this (all)")
    p.add_argument("--seconds", default="60", help="time to fill with rounds, 5 or more (60)")
    return p


def main(argv: Sequence[str]) -> int:
    """Check and time; 0, 1 or 2."""
    try:
        given = _parser().parse_args(argv)
        if given.dtype not in DTYPES:
            raise InputError(f"--dtype: got {given.dtype!r}, allowed are {', '.join(DTYPES)}")
        if not given.seconds.isdecimal() or int(given.seconds) < 5:
            raise InputError(f"--seconds: got {given.seconds!r}, allowed are whole numbers from 5")
        reason = "they are emulated" if cuda_launch.emulating() else cuda_launch.unavailable()
        if reason is not None:
            raise InputError(f"the CUDA kernels cannot be timed here: {reason}")
        at = Where(torch.device("cuda", torch.cuda.current_device()), DTYPES[given.dtype])
        chosen = [c for c in _able(cases(at)) if given.only in c.name]
        if not chosen:
            names = ", ".join(c.name for c in cases(at))
            raise InputError(f"--only: got {given.only!r}, allowed is a part of: {names}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run(chosen, at, float(given.seconds))


def _able(found: Iterable[Case]) -> list[Case]:
    """The cases; without the convolution of many channels if its first calls do not end well."""
    every = list(found)
    absent = probe.first_calls() if any(c.hangs and c.absent is None for c in every) else None
    return [replace(c, absent=c.absent or absent) if c.hangs else c for c in every]


def run(chosen: list[Case], at: Where, seconds: float) -> int:
    """Numerics of all, then the times, a block of lines a kernel."""
    torch.manual_seed(0)
    about = ", ".join(f"{k} {v}" for k, v in machine.machine(at.device, 1).items())
    print(f"machine: {about}\ncommit: {machine.commit()}\nkernels: {cuda_launch.how()}")
    able = [c for c in chosen if c.absent is None]
    for case in chosen:
        if case.absent is not None:
            print(f"skipped {case.name}: {case.absent}")
    wrong = [line for case in able for line in check(case, CHECKED)]
    if wrong:
        print("\n".join(wrong) + "\nnothing was timed", file=sys.stderr)
        return 1
    print(f"numerics: {len(able)} kernels checked")
    copy = ceilings.copy_gbps(at.device, clock.clock_for(at.device))
    print(f"copy: {copy:.0f} GB/s\n\n{HEAD}")
    ticks = CudaClock(at.device)
    for case in able:
        try:
            print("\n".join(rows(case, ticks, copy, seconds / len(able))), flush=True)
        except torch.OutOfMemoryError:
            print(f"skipped {case.name}: its data do not fit in memory", flush=True)
        torch.cuda.empty_cache()
    return 0


def rows(case: Case, ticks: CudaClock, copy: float, seconds: float) -> list[str]:
    """The lines of one kernel: ours, theirs, and what is asked of it."""
    built = case.build(case.images)
    contenders = {"vggfast": built.ours, **built.theirs}
    for work in contenders.values():  # libraries choose their algorithms, memory is taken
        for _ in range(3):
            work()
    ticks.wait()
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    until = time.monotonic() + seconds
    for i in range(MOST):
        if i >= LEAST and time.monotonic() > until:
            break
        for name in list(contenders)[:: 1 if i % 2 == 0 else -1]:
            samples[name].append(statistics.median(ticks.measure(contenders[name])))
    ms = {name: statistics.median(found) for name, found in samples.items()}
    lines = []
    for name, t in ms.items():
        gbps, tflops = built.nbytes / t / 1e6, built.flop / t / 1e9
        lines.append(
            f"{case.name:<27} {name:<14} {t:>9.4f} {gbps:>7.0f} {gbps / copy:>8.1%} "
            f"{f'{tflops:.1f}' if built.flop else '':>8} {t / ms['vggfast']:>7.2f}x"
        )
    return lines + verdicts(case, ms, built.nbytes / ms["vggfast"] / 1e6 / copy)


def verdicts(case: Case, ms: dict[str, float], share: float) -> list[str]:
    """What is asked of the kernel, and whether it is met."""
    least, times = case.asked
    found = []
    if least is not None:
        found.append(f"{least:.0%} of copy: {'met' if share >= least else 'missed'}")
    others = {name: t for name, t in ms.items() if name != "vggfast"}
    if "triton" in others:
        others = {"triton": others["triton"]}
    if times is not None:
        best = min(others, key=lambda name: others[name])
        met = others[best] / ms["vggfast"] >= times
        found.append(f"{times:g}x {best}: {'met' if met else 'missed'}")
    return [f"  asked: {', '.join(found)}"] if found else []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
