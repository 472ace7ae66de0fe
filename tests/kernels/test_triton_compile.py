"""Every entry of the tile table compiles for its GPU, without one, within the gates.

In a process of its own: this one may have loaded Triton to interpret.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from vggfast.kernels.compile_check import disorder

PYTHON = """
from dataclasses import replace
from vggfast.kernels import compile_cases, compile_check, tiles

def entry(*key):
    return next(t for t in tiles.table() if (t.kernel, t.arch, t.bits) == key)

hopper = entry("fprop", 90, 16)
ampere = entry("wgrad", 80, 32)
for case in (
    compile_cases.fprop_case(replace(hopper, stages=12), "fp16", "relu"),
    compile_cases.wgrad_case(replace(ampere, box=(2, 2, 4), bk=128), "fp32"),
    compile_cases.fprop_case(replace(hopper, bk=16, stages=2), "fp32", "relu"),
):
    print(compile_check.check(case).failures)
"""
GLUON = """
from dataclasses import replace
from vggfast.kernels import compile_cases, compile_check, gluon_plan, tiles

if gluon_plan.absent():
    print(gluon_plan.absent())
    raise SystemExit(3)
tile = next(t for t in tiles.table() if t.form == "gluon")
case = compile_cases.gluon_case(tile, "fp16", "relu", share=1)
half = {**case.types, "y": case.types["y"].replace("[1, 8, 32, 64]", "[1, 4, 32, 64]")}
for changed in (
    replace(case, constants={**case.constants, "WBUFS": 9}),
    replace(case, constants={**case.constants, "TH": 4}, types=half),
):
    print(compile_check.check(changed).failures)
"""


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment = {**kept, **variables}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("extra", [(), pytest.param(("--all",), marks=pytest.mark.long)])
def test_the_table_compiles_within_the_gates(extra: tuple[str, ...]) -> None:
    done = run("-m", "vggfast.kernels.compile_check", *extra)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(
        r"^triton \S+: \d\d+ kernels compiled in \d+ s, 0 failed a gate$", done.stdout, re.M
    )


def test_the_gates_can_fail(tmp_path: Path) -> None:
    done = run("-c", PYTHON, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    stages, spills, plain = done.stdout.splitlines()
    assert "shared memory" in stages
    assert "spills" in spills
    assert "no HGMMA" in plain


def test_the_gates_of_gluon_can_fail(tmp_path: Path) -> None:
    done = run("-c", GLUON, TRITON_CACHE_DIR=str(tmp_path))
    if done.returncode == 3:
        pytest.skip(done.stdout)
    assert done.returncode == 0, done.stderr
    buffers, shape = done.stdout.splitlines()
    assert "shared memory" in buffers
    assert "HGMMA of ['64x128x16'], not 64x256x16" in shape


ORDERED = (
    "wgmma.wait_group.sync.aligned 0;",
    "bar.sync 0, 128;",
    "@%p1 mbarrier.arrive.shared::cta.b64 _, [%r1];",
    "cp.async.bulk.wait_group.read 0;",
    "bar.sync 0, 128;",
    "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r2], {%r3, %r4, %r5, %r6};",
    "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%r7], {%r3, %r4, %r5, %r6};",
    "fence.proxy.async.shared::cta;",
    "bar.sync 0, 128;",
    "@%p2 cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%rd1, {%r1, %r1}], [%r1];",
)


def test_order_in_the_ptx() -> None:
    assert disorder("\n".join(ORDERED)) == []
    for i in (1, 3, 4, 7, 8):  # each barrier, the wait for the last store, the fence
        assert disorder("\n".join(ORDERED[:i] + ORDERED[i + 1 :])), ORDERED[i]
    assert disorder("")


def test_an_empty_selection_fails() -> None:
    assert (
        run("-m", "vggfast.kernels.compile_check", "--match", "nothing-of-that-name").returncode
        == 1
    )
