"""Compile every entry of the tile table for its GPU, without one, and gate on the machine code.

    python -m vggfast.kernels.compile_check [--jobs N] [--match TEXT] [--all]

prints a row per compiled kernel and exits 1 if a gate fails:

- shared memory fits: 232448 bytes on sm_90; 101376 on sm_80, which is what sm_86, sm_89 and sm_120
  have, so that the same entries serve them (sm_80 itself has 166912);
- nothing spills: a stack of 0 bytes, and no LDL or STL in the GEMMs;
- 16-bit and TF32 products run on tensor cores: HGMMA on sm_90, HMMA on sm_80; e4m3's: QGMMA;
- operands are copied in the background: UTMALDG (TMA) on sm_90, LDGSTS on sm_80;
- in fprop and dgrad on sm_90 no operand passes through registers: no LDSM before the last HGMMA or
  QGMMA;
- a padded-flat map is stored by TMA (UTMASTG) on sm_90;
- e4m3 products follow each other without waiting: the instructions of a step form one group;
- a Gluon kernel has products of 64 x 256 and no LDSM at all, stores by TMA (UTMASTG), and moves
  registers between its warpgroups (USETMAXREG); what its source leaves to the compiler is there
  (``disorder``).

Where the installed Triton has no Gluon, its kernels are left out and the last line says so.

The first layer's kernels gather their operands through registers and live by memory bandwidth, so
instead of the last two gates: on sm_90 the result is stored by TMA (UTMASTG), and registers and
shared memory let a multiprocessor hold several programs, some of which load while others store.

Speed is not seen here, instruction selection is. Needs the ptxas, cuobjdump and nvdisasm of the
triton wheel; TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import gluon_plan
from .compile_cases import Case, cases

SHARED_LIMIT = {80: 101376, 90: 232448}
REGISTERS = 65536  # of a multiprocessor, shared out in units of 8 a thread
COUNTED = (
    "QGMMA", "HGMMA", "HMMA", "FFMA", "LDSM", "LDL", "STL", "SHFL", "UTMALDG", "UTMASTG",
    "LDGSTS", "USETMAXREG",
)  # fmt: skip
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass
class Facts:
    """What the compiler made of a case."""

    name: str
    shared: int
    registers: int
    stack: int
    seconds: float
    counts: dict[str, int]
    early_ldsm: int  # LDSM before the last tensor-core instruction
    shapes: set[str]  # of the HGMMA, such as 64x256x16
    groups: int  # groups of QGMMA: the instructions of one run together
    failures: list[str] = field(default_factory=list)


def check(case: Case) -> Facts:
    """Compile ``case`` and look at the machine code."""
    module, function = case.kernel.split(".")
    kernel = getattr(import_module(f".{module}", __package__), function)
    # Triton takes the arguments in the order of the kernel; what is constant carries no type.
    signature = {a: "constexpr" if a in case.constants else case.types[a] for a in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    options = {"num_warps": case.warps, "num_stages": case.stages}
    source = ASTSource
    if case.registers is not None:
        source, options["maxnreg"] = _gluon_source(), case.registers
    start = time.perf_counter()
    compiled = triton.compile(
        source(kernel, signature, case.constants, aligned),
        target=GPUTarget("cuda", case.arch, 32),
        options=options,
    )
    seconds = time.perf_counter() - start
    facts = _inspect(case, compiled.asm["cubin"], compiled.metadata.shared, seconds)
    facts.failures = list(_failures(case, facts))
    if case.registers is not None:
        facts.failures += disorder(compiled.asm["ptx"])
    return facts


def _gluon_source() -> Any:
    """Imported late: an older Triton has none, and then no case asks for it."""
    return import_module("triton.experimental.gluon._runtime").GluonASTSource


def _inspect(case: Case, cubin: bytes, shared: int, seconds: float) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", str(path))
        # A stack of 0 bytes already says that nothing spills: only the GEMMs are worth reading.
        sass = _tool("nvdisasm", "-ndf", "-c", str(path)) if case.is_gemm else ""
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    stream = re.findall(r"\b(" + "|".join(COUNTED) + r")\b", sass)
    mma = [i for i, op in enumerate(stream) if op in ("QGMMA", "HGMMA", "HMMA")]
    early = stream[: mma[-1]].count("LDSM") if mma else 0
    counts = {op: stream.count(op) for op in COUNTED}
    shapes = set(re.findall(r"\bHGMMA\.(\w+)", sass))
    groups = len(re.findall(r"\bQGMMA\b.*\bgsb0\b", sass))
    return Facts(
        case.name,
        shared,
        int(found["REG"]),
        int(found["STACK"]),
        seconds,
        counts,
        early,
        shapes,
        groups,
    )


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(_TOOLS / name), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


def disorder(ptx: str) -> list[str]:
    """What the PTX of a Gluon kernel lacks between steps that one thread does for its warpgroup.

    One thread arrives at a barrier when all of its warpgroup have seen their products done, so a
    bar.sync stands directly before. One thread asks for a TMA store, so before it stand, in order:
    its wait for the last store, a bar.sync, the values, a fence of each thread, a bar.sync.
    """
    marks = {
        r"cp\.async\.bulk\.wait_group\.read": "wait", r"bar(?:rier)?\.sync": "sync",
        r"mbarrier\.arrive\.shared": "arrive", r"wgmma\.wait_group": "products",
        r"fence\.proxy\.async": "fence", r"st(?:matrix\.sync\S*)?\.shared": "values",
        r"cp\.async\.bulk\.tensor\.\S*global\.shared": "store",
    }  # fmt: skip
    found = re.finditer("|".join(f"({pattern})" for pattern in marks), ptx)
    seen = [list(marks.values())[(m.lastindex or 1) - 1] for m in found]
    failures = []
    for i, mark in enumerate(seen):
        if mark == "arrive" and seen[i - 1] != "sync":
            failures.append(f"an arrival directly after {seen[i - 1]!r}, not after a bar.sync")
        if mark == "store":
            before = [m for j, m in enumerate(seen[:i]) if m != "values" or seen[j - 1] != m]
            if before[-5:] != ["wait", "sync", "values", "fence", "sync"]:
                failures.append(f"a TMA store after {before[-5:]}")
    if not {"arrive", "store"} <= set(seen):
        failures.append("no arrival or no TMA store in the PTX")
    return failures


def _failures(case: Case, facts: Facts) -> Iterator[str]:
    limit, counts = SHARED_LIMIT[case.arch], facts.counts
    if facts.shared > limit:
        yield f"shared memory {facts.shared} > {limit}"
    if facts.stack or counts["LDL"] or counts["STL"]:
        yield f"spills: stack {facts.stack}, {counts['LDL']} LDL, {counts['STL']} STL"
    if not case.is_gemm:
        return
    resident = _resident(case, facts)
    if resident < case.resident:
        yield f"{resident} programs on a multiprocessor < {case.resident}"
    mma, copy = {80: ("HMMA", "LDGSTS"), 90: ("HGMMA", "UTMALDG")}[case.arch]
    mma = "QGMMA" if case.bits == 8 else mma
    precision = case.constants.get("PRECISION", "ieee") if case.bits == 32 else "tensor cores"
    if precision != "ieee" and not counts[mma]:
        yield f"no {mma}"
    if case.gathers:
        if case.arch == 90 and "fprop" in case.kernel and not counts["UTMASTG"]:
            yield "no UTMASTG"
        return
    if not counts[copy]:
        yield f"no {copy}"
    if case.arch == 90 and case.constants.get("FLAT") and not counts["UTMASTG"]:
        yield "no UTMASTG"
    # Three products of a float32 need it in registers, where it is taken apart.
    direct = precision != "tf32x3" and "wgrad3x3" not in case.kernel
    if case.arch == 90 and direct and facts.early_ldsm:
        yield f"{facts.early_ldsm} LDSM before the last {mma}"
    if case.bits == 8 and facts.groups > 1:  # a step is unrolled once
        yield f"{facts.groups} groups of {mma}: each instruction waits for the last"
    if case.registers is not None:
        if facts.shapes != {"64x256x16"}:
            yield f"HGMMA of {sorted(facts.shapes)}, not 64x256x16"
        if counts["LDSM"]:
            yield f"{counts['LDSM']} LDSM"
        for wanted in ("UTMASTG", "USETMAXREG"):
            if not counts[wanted]:
                yield f"no {wanted}"


def _resident(case: Case, facts: Facts) -> int:
    """Programs that a multiprocessor has registers and shared memory for."""
    by_registers = REGISTERS // (-(-facts.registers // 8) * 8 * 32 * case.warps)
    # Each program takes 1024 bytes besides its own, and the limit is what one program may have.
    return min(by_registers, (SHARED_LIMIT[case.arch] + 1024) // (facts.shared + 1024))


def run(jobs: int = 1, match: str = "", every: bool = False) -> list[Facts]:
    """Check the cases whose name contains ``match``; Triton's cache goes to a temporary folder."""
    wanted = [c for c in cases(every) if match in c.name]
    with tempfile.TemporaryDirectory() as cache:
        before = os.environ.get("TRITON_CACHE_DIR")
        os.environ["TRITON_CACHE_DIR"] = cache
        try:
            if jobs == 1:
                return [check(c) for c in wanted]
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                return list(pool.map(check, wanted))
        finally:
            if before is None:
                del os.environ["TRITON_CACHE_DIR"]
            else:
                os.environ["TRITON_CACHE_DIR"] = before


def show(results: list[Facts]) -> str:
    """A table of the facts, one row a case."""
    width = max((len(f.name) for f in results), default=4)
    rows = [f"{'kernel':<{width}}  regs  shared  instructions"]
    for f in results:
        seen = " ".join(f"{op} {n}" for op, n in f.counts.items() if n)
        early = f" (LDSM before the last MMA: {f.early_ldsm})" if f.counts["LDSM"] else ""
        failed = "".join(f"\n    FAILED: {reason}" for reason in f.failures)
        rows.append(f"{f.name:<{width}}  {f.registers:4}  {f.shared:6}  {seen}{early}{failed}")
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description="compile the tile table and gate on its code")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N")
    parser.add_argument("--match", default="", help="only cases whose name contains this")
    parser.add_argument("--all", action="store_true", help="every variant of every entry")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("TRITON_INTERPRET=1 is set, which compiles nothing; unset it", file=sys.stderr)
        return 2
    start = time.perf_counter()
    results = run(max(1, options.jobs), options.match, options.all)
    failed = sum(bool(f.failures) for f in results)
    print(show(results))
    print(
        f"triton {triton.__version__}: {len(results)} kernels compiled in "
        f"{time.perf_counter() - start:.0f} s, {failed} failed a gate"
    )
    if gluon_plan.absent():
        print(f"without the Gluon kernels: {gluon_plan.absent()}")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
