"""Compile every entry of the tile table for its GPU, without one, and gate on the machine code.

    python -m vggfast.kernels.compile_check [--jobs N] [--match TEXT] [--all]

prints a row per compiled kernel and exits 1 if a gate fails:

- shared memory fits: 232448 bytes on sm_90; 101376 on sm_80, which is what sm_86, sm_89 and sm_120
  have, so that the same entries serve them (sm_80 itself has 166912);
- nothing spills: a stack of 0 bytes, and no LDL or STL in the GEMMs;
- 16-bit products run on tensor cores: HGMMA on sm_90, HMMA on sm_80;
- operands are copied in the background: UTMALDG (TMA) on sm_90, LDGSTS on sm_80;
- in fprop on sm_90 no operand passes through registers: no LDSM before the last HGMMA.

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
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from . import conv3x3, pool2x2, tiles

SHARED_LIMIT = {80: 101376, 90: 232448}
COUNTED = ("HGMMA", "HMMA", "FFMA", "LDSM", "LDL", "STL", "SHFL", "UTMALDG", "LDGSTS")
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Case:
    """One compilation: a kernel, the types of its arguments, its constants, its options."""

    name: str
    kernel: str  # "module.function"
    arch: int
    bits: int
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 2
    is_gemm: bool = False


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
    failures: list[str] = field(default_factory=list)


def _sizes(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")


def _operand(tile: tiles.Tile, dtype: str, *box: int) -> str:
    return f"tensordesc<{dtype}[{', '.join(map(str, box))}]>" if tile.arch >= 90 else f"*{dtype}"


def fprop_case(tile: tiles.Tile, dtype: str, variant: str) -> Case:
    """``variant``: "relu" (bias and ReLU), "pool" (the same, pool and argmax) or "dgrad"."""
    (ni, th, tw), bc, bk = tile.box, tile.bc, tile.bk
    pool, dgrad = variant == "pool", variant == "dgrad"
    stored = (ni, th // 2, tw // 2) if pool else tile.box
    types = {
        "x": _operand(tile, dtype, ni, th, tw, bk),
        "w": _operand(tile, dtype, bc, bk),
        "b_ptr": f"*{dtype}",
        "y": _operand(tile, dtype, *stored, bc),
        "argmax_ptr": "*u8",
        **_sizes("N", "H", "W", "HO", "WO", "QI", "QO", "C_out", "tiles_h", "tiles_w"),
    }
    constants: dict[str, Any] = {
        "NI": ni, "TH": th, "TW": tw, "BC": bc, "BK": bk, "TMA": tile.arch >= 90,
        "RELU": not dgrad, "POOL": pool, "MIRROR": dgrad,
    }  # fmt: skip
    absent = (["b_ptr"] if dgrad else []) + ([] if pool else ["argmax_ptr"])
    constants.update(dict.fromkeys(absent))
    return Case(
        f"{tile.name}_{variant}_{dtype}", "conv3x3.conv3x3_fprop_kernel", tile.arch, tile.bits,
        types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def wgrad_case(tile: tiles.Tile, dtype: str) -> Case:
    types = {
        "x": _operand(tile, dtype, *tile.box, tile.bk),
        "dz": _operand(tile, dtype, *tile.box, tile.bc),
        "partial_ptr": "*fp32",
        **_sizes("N", "H", "W", "QI", "QO", "C_in", "C_out", "tiles_h", "tiles_w", "tiles"),
        **_sizes("tiles_per_split"),
    }
    constants = dict(zip(("NI", "TH", "TW"), tile.box, strict=True))
    constants.update(BC=tile.bc, BK=tile.bk, TMA=tile.arch >= 90)
    return Case(
        f"{tile.name}_{dtype}", "conv3x3.conv3x3_wgrad_kernel", tile.arch, tile.bits,
        types, constants, tile.warps, tile.stages, True,
    )  # fmt: skip


def element_cases(arch: int, dtype: str) -> Iterator[Case]:
    """The kernels without tiles in the table, at the block sizes of 64 channels."""
    block, t = {"BP": 16, "BC": 64}, f"*{dtype}"
    partial = {"partial_ptr": "*fp32"}
    share = _sizes("C", "C_PAD", "rows_per_program")
    maps = {"grad_ptr": t, "y_ptr": t, "dz_ptr": t, **partial, **share}
    pooled = {"argmax_ptr": "*u8", **_sizes("N", "H", "W", "C")}
    listed: tuple[tuple[str, dict[str, str], dict[str, int]], ...] = (
        ("pool2x2.maxpool2x2_kernel", {"x_ptr": t, "y_ptr": t, **pooled}, block),
        ("pool2x2.pool_backward_kernel", {**maps, **pooled}, block),
        ("pool2x2.relu_backward_kernel", {**maps, "pixels": "i32"}, block),
        ("pool2x2.column_sum_kernel", {**partial, "db_ptr": t, **_sizes("partials", "C")}, block),
        (
            "conv3x3.conv3x3_wgrad_sum_kernel",
            {**partial, "dw_ptr": t, **_sizes("pairs", "splits")},
            {"B": 1024},
        ),
    )
    for kernel, types, constants in listed:
        name = f"{kernel.split('.')[1].removesuffix('_kernel')}_sm{arch}_{dtype}"
        yield Case(name, kernel, arch, 16 if dtype != "fp32" else 32, types, dict(constants))


def cases(every: bool = False) -> Iterator[Case]:
    """The compilations of the check, ``every`` one or the default choice.

    By default a fprop entry is compiled with all of its epilogue, and the widest 16-bit ones also
    without the pool and as dgrad. fp16 and bf16 share code, so the variants share them out.
    """
    for tile in tiles.table():
        one, other = ("fp16", "bf16") if tile.bits == 16 else ("fp32", "fp32")
        if tile.kernel == "wgrad":
            yield wgrad_case(tile, other)
            continue
        yield fprop_case(tile, other, "pool")
        if every or (tile.bits == 16 and tile.bc == 128):
            yield fprop_case(tile, one, "relu")
            yield fprop_case(tile, other, "dgrad")
    for arch in SHARED_LIMIT:
        yield from element_cases(arch, "bf16")


def check(case: Case) -> Facts:
    """Compile ``case`` and look at the machine code."""
    module, function = case.kernel.split(".")
    kernel = getattr({"conv3x3": conv3x3, "pool2x2": pool2x2}[module], function)
    # Triton takes the arguments in the order of the kernel; what is constant carries no type.
    signature = {a: "constexpr" if a in case.constants else case.types[a] for a in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, kind in enumerate(signature.values())
        if kind.startswith("*")
    }
    start = time.perf_counter()
    compiled = triton.compile(
        ASTSource(kernel, signature, case.constants, aligned),
        target=GPUTarget("cuda", case.arch, 32),
        options={"num_warps": case.warps, "num_stages": case.stages},
    )
    seconds = time.perf_counter() - start
    facts = _inspect(case, compiled.asm["cubin"], compiled.metadata.shared, seconds)
    facts.failures = list(_failures(case, facts))
    return facts


def _inspect(case: Case, cubin: bytes, shared: int, seconds: float) -> Facts:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", str(path))
        # A stack of 0 bytes already says that nothing spills: only the GEMMs are worth reading.
        sass = _tool("nvdisasm", "-ndf", "-c", str(path)) if case.is_gemm else ""
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    stream = re.findall(r"\b(" + "|".join(COUNTED) + r")\b", sass)
    mma = [i for i, op in enumerate(stream) if op in ("HGMMA", "HMMA")]
    early = stream[: mma[-1]].count("LDSM") if mma else 0
    counts = {op: stream.count(op) for op in COUNTED}
    return Facts(case.name, shared, int(found["REG"]), int(found["STACK"]), seconds, counts, early)


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [str(_TOOLS / name), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout + done.stderr


def _failures(case: Case, facts: Facts) -> Iterator[str]:
    limit, counts = SHARED_LIMIT[case.arch], facts.counts
    if facts.shared > limit:
        yield f"shared memory {facts.shared} > {limit}"
    if facts.stack or counts["LDL"] or counts["STL"]:
        yield f"spills: stack {facts.stack}, {counts['LDL']} LDL, {counts['STL']} STL"
    if not case.is_gemm:
        return
    mma, copy = {80: ("HMMA", "LDGSTS"), 90: ("HGMMA", "UTMALDG")}[case.arch]
    if case.bits == 16 and not counts[mma]:
        yield f"no {mma}"
    if not counts[copy]:
        yield f"no {copy}"
    if case.arch == 90 and "fprop" in case.kernel and facts.early_ldsm:
        yield f"{facts.early_ldsm} LDSM before the last {mma}"


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
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
