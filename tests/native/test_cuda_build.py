"""The machine code of the CUDA kernels, read from the built extension without a GPU."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from vggfast.backends import native

COLUMNS = (64, 128, 208, 216, 224, 232)
_KERNEL = re.compile(r"conv3x3ILi(\d+)ELNS\w*?4HalfE(\d)E")  # template arguments in a mangled name


def _tool(name: str) -> str:
    """cuobjdump or nvdisasm: on PATH, or in the triton wheel."""
    found = shutil.which(name)
    if found is None and (triton := importlib.util.find_spec("triton")) and triton.origin:
        inside = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / name
        found = str(inside) if inside.exists() else None
    if found is None:
        pytest.skip(f"no {name} on PATH or in the triton wheel")
    return found


def _read(*command: str, **options: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cubins(tmp_path_factory) -> list[Path]:
    if not native.module().build_config()["cuda"]:
        pytest.skip("this build holds no CUDA kernels")
    folder = tmp_path_factory.mktemp("cubins")
    _read(_tool("cuobjdump"), "-xelf", "sm_90a", str(native.module().__file__), cwd=folder)
    return sorted(folder.glob("*.cubin"))


@pytest.fixture(scope="module")
def kernels(cubins) -> dict[tuple[int, int], list[str]]:
    """Lines of machine code by (columns, 0 for bf16 or 1 for fp16)."""
    found: dict[tuple[int, int], list[str]] = {}
    for cubin in cubins:
        sections = re.split(
            r"^\.text\.", _read(_tool("nvdisasm"), "-c", "-ndf", str(cubin)), flags=re.M
        )
        for section in sections[1:]:
            name = _KERNEL.search(section.split(":", 1)[0])
            if name is not None:
                lines = [
                    part[1] for line in section.splitlines() if len(part := line.split("*/", 1)) > 1
                ]
                found[int(name[1]), int(name[2])] = [line.strip() for line in lines]
    return found


def test_every_kernel_is_built_for_each_target_and_none_spills():
    """What is emulated, and the convolution on sm_90a; a spill would be a stack or local memory."""
    config = native.module().build_config()
    if not config["cuda"]:
        pytest.skip("this build holds no CUDA kernels")
    assert config["cuda_targets"] == "sm_80 sm_90a compute_90"
    wanted = {name.split("<")[0] for name in config["cuda_emulated"]}
    found: dict[str, list[str]] = {"sm_80": [], "sm_90a": []}
    arch = ""
    for line in _read(_tool("cuobjdump"), "-res-usage", str(native.module().__file__)).splitlines():
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ")
        elif name := re.match(r" Function (\S+):$", line):
            found[arch].append(name[1])
        elif "REG:" in line:
            assert re.search(r"STACK:0 .*LOCAL:0 ", line), (arch, found[arch][-1], line)
    for arch, names in found.items():
        assert all(any(f"{len(k)}{k}" in n for n in names) for k in wanted), arch
        others = [n for n in names if not any(f"{len(k)}{k}" in n for k in wanted)]
        assert len(others) == (2 * len(COLUMNS) + 1 if arch == "sm_90a" else 0)  # and the packing
    ptx = _read(_tool("cuobjdump"), "-lptx", str(native.module().__file__))
    assert len(re.findall(r"\.sm_90\.ptx", ptx)) >= 6  # a file a kind of kernel


@pytest.mark.parametrize(
    "line",
    [
        "ptxas info: 8 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads",
        "ptxas warning : setmaxnreg ignored to maintain minimum register requirements.",
        "ptxas info: (C7510) Potential Performance Loss: wgmma.mma_async instructions are "
        "serialized due to insufficient register resources",
    ],
)
def test_the_build_ends_at_what_ptxas_says(line, tmp_path):
    (tmp_path / "bin").mkdir()
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.write_text(
        '#!/bin/sh\nwhile [ $# -gt 1 ]; do [ "$1" = -o ] && : >"$2"; shift; done\n'
        f"echo '{line}' >&2\n"
    )
    nvcc.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", str(tmp_path / "temp"),
         "--build-lib", str(tmp_path / "lib")],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=False,
        env={**os.environ, "CUDA_HOME": str(tmp_path), "VGGFAST_CUDA": "1"},
    )  # fmt: skip
    assert done.returncode != 0
    assert line in done.stderr
    assert re.search(r"vggfast: (registers spill in|nvcc warned of) csrc/cuda/\w+\.cu", done.stderr)
    assert not list((tmp_path / "temp").rglob("*.o")), "what was refused is not taken later"


def test_every_tile_is_built(kernels):
    assert set(kernels) == {(n, half) for n in COLUMNS for half in (0, 1)}


def test_both_operands_come_from_shared_memory(kernels):
    """A register as the first operand would stand where gdesc does."""
    for (n, half), lines in kernels.items():
        products = [line for line in lines if "HGMMA" in line]
        assert len(products) >= 4
        kind = r"\.BF16" if half == 0 else ""
        form = re.compile(rf"HGMMA\.64x{n}x16\.F32{kind} R\d+, gdesc\[UR\d+\], R\d+")
        for line in products:
            assert form.search(line), line


def test_data_moves_by_bulk_copies(kernels):
    for case, lines in kernels.items():
        ops = Counter(op for line in lines for op in re.findall(r"\b[A-Z][A-Z0-9]+\b", line)[:2])
        for op in ("UTMALDG", "UBLKCP", "UTMASTG", "STSM", "SYNCS"):
            assert ops[op] > 0, (case, op)
        for form in ("UTMALDG.4D", "UTMALDG.5D", "MULTICAST"):
            assert any(form in line for line in lines), (case, form)


def test_registers_move_between_warps_and_nothing_spills(kernels, cubins):
    for case, lines in kernels.items():
        moves = [line for line in lines if "USETMAXREG" in line]
        assert sum("DEALLOC" in line for line in moves) == 1, case
        assert sum("TRY_ALLOC" in line for line in moves) == 1, case
        assert not any(re.search(r"\b(LDL|STL)\b", line) for line in lines), case
    usage = [_read(_tool("cuobjdump"), "-res-usage", str(cubin)) for cubin in cubins]
    rows = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+)", "\n".join(usage))
    ours = [(int(registers), int(stack)) for name, registers, stack in rows if _KERNEL.search(name)]
    assert len(ours) == 2 * len(COLUMNS)
    # 384 threads; more than 168 registers at the start would not launch.
    assert all(registers <= 168 and stack == 0 for registers, stack in ours), ours


def test_products_are_not_serialised(kernels):
    """No wait stands between the products of a step: one for each step, one for a tile."""
    for case, lines in kernels.items():
        stream = [m[0] for line in lines if (m := re.search(r"HGMMA|WARPGROUP\.DEPBAR", line))]
        products, waits = stream.count("HGMMA"), stream.count("WARPGROUP.DEPBAR")
        assert products % 4 == 0, case
        assert waits == products // 4 + 1, (case, stream)
