"""The convolution for Hopper, its own code, on an emulator of the hardware (sm90_emulator/).

The emulator follows the PTX ISA: a thread for each of a cluster's, barriers with phases and counted
bytes, copies that end in any order, products and stores as late as they may be or as early. What
stays open without a GPU is whether the hardware does what the PTX ISA says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vggfast.backends.base import to_channels_last
from vggfast.backends.eager import EagerBackend

HERE = Path(__file__).resolve().parent
EMULATOR = HERE / "sm90_emulator"
SLABS, SWIZZLED, SWIZZLED_OFFSET = 0, 1, 2


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler})")
    built = tmp_path_factory.mktemp("emulator") / "conv3x3"
    subprocess.run(
        [compiler, "-std=c++17", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas",
         "-Wno-unused-function", "-I", str(EMULATOR), "-I", str(HERE.parents[1] / "csrc"),
         str(EMULATOR / "conv3x3.cpp"), "-o", str(built), "-lpthread"],
        check=True,
    )  # fmt: skip
    return built


def _save(path: Path, t: Tensor | None) -> str:
    path.write_bytes(b"" if t is None else t.flatten().view(torch.uint8).numpy().tobytes())
    return str(path)


def _run(program, folder, x, w, b, relu, pool, form=SLABS, cluster=1, multiprocessors=1,
         eager=False, rotated=False):  # fmt: skip
    """y, the argmax and the plan; x and w are float32 with values that bfloat16 holds."""
    (n, c_in, h, width), c_out = x.shape, w.shape[1 if rotated else 0]
    ho, wo = (h // 2, width // 2) if pool else (h, width)
    y = torch.full((n, ho, wo, c_out), float("nan")).bfloat16()
    argmax = torch.full((n, ho, wo, c_out // 4), 255, dtype=torch.uint8) if pool else None
    files = [
        _save(folder / "x", x.permute(0, 2, 3, 1).contiguous().bfloat16()),
        _save(folder / "w", w.bfloat16()),
        _save(folder / "b", None if b is None else b.bfloat16()),
        _save(folder / "y", y),
        _save(folder / "argmax", argmax),
    ]
    numbers = [n, h, width, c_in, c_out, relu, pool, form, cluster, multiprocessors, eager, rotated]
    done = subprocess.run(
        [str(program), *files, *(str(int(v)) for v in numbers)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    plan = {k: int(v) for k, v in zip(words[::2], words[1::2], strict=True)}
    y = torch.frombuffer(bytearray((folder / "y").read_bytes()), dtype=torch.bfloat16)
    y = y.reshape(n, ho, wo, c_out).permute(0, 3, 1, 2).float()
    if argmax is not None:
        data = bytearray((folder / "argmax").read_bytes())
        argmax = torch.frombuffer(data, dtype=torch.uint8).reshape(argmax.shape)
    return y, argmax, plan


def _whole(size: tuple[int, ...], most: int) -> Tensor:
    return torch.randint(-most, most + 1, size).float()


# (n, c_in, c_out, h, w), cluster, multiprocessors (one, or two in a cluster, ask for large tiles
# and several a block), and what of the plan makes the case worth its time.
CASES = {
    "several maps a tile": ((5, 64, 128, 7, 6), 2, 2, {"images": 3, "pitch": 7, "box_rows": 8}),
    "several maps, two blocks of inputs": ((2, 128, 128, 14, 14), 1, 1, {"columns": 216}),
    "whole rows": ((1, 64, 128, 8, 56), 1, 1, {"columns": 232, "pitch": 57, "box_rows": 6}),
    "boxes inside a map": ((1, 64, 128, 28, 27), 1, 1, {"columns": 208, "rows": 7, "units": 4}),
    "parts of rows, several tiles a block": ((1, 64, 128, 8, 112), 2, 2, {"pitch": 58, "units": 2}),
    "an empty tile at the end": ((9, 64, 128, 7, 7), 2, 2, {"images": 2, "units": 3}),
    "the second warpgroup has the lower rows": ((1, 64, 64, 9, 11), 2, 2, {"groups": 2}),
    "three blocks of 64 outputs": ((1, 64, 192, 5, 9), 1, 2, {"groups": 2, "units": 3}),
    "one pixel": ((1, 64, 128, 1, 1), 2, 132, {"columns": 64, "zeroed": 3}),
    "one row": ((1, 64, 128, 1, 33), 1, 1, {"rows": 1, "zeroed": 35}),
}


@pytest.mark.parametrize(
    ("case", "eager"),
    [*((case, False) for case in CASES), *((case, True) for case in CASES if "several" in case)],
)
def test_convolution(program, tmp_path, case, eager):
    (n, c_in, c_out, h, w), cluster, multiprocessors, expected = CASES[case]
    x, weights, b = _whole((n, c_in, h, w), 3), _whole((c_out, c_in, 3, 3), 2), _whole((c_out,), 9)
    y, _, plan = _run(
        program, tmp_path, x, weights, b, True, False, SLABS, cluster, multiprocessors, eager
    )
    want = torch.conv2d(x.double(), weights.double(), b.double(), padding=1).relu()
    assert torch.equal(y, want.bfloat16().float()), plan
    assert plan | expected == plan


@pytest.mark.parametrize("form", [SWIZZLED, SWIZZLED_OFFSET])
@pytest.mark.parametrize("case", [c for c in CASES if "rows" in c or "maps" in c])
def test_swizzled(program, tmp_path, case, form):
    """Each form is right where the hardware reads the base offset its way."""
    (n, c_in, c_out, h, w), cluster, multiprocessors, _ = CASES[case]
    x, weights = _whole((n, c_in, h, w), 3), _whole((c_out, c_in, 3, 3), 2)
    y, _, _ = _run(
        program, tmp_path, x, weights, None, False, False, form, cluster, multiprocessors
    )
    want = torch.conv2d(x.double(), weights.double(), padding=1)
    assert torch.equal(y, want.bfloat16().float())


@pytest.mark.parametrize(
    ("size", "cluster", "expected"),
    [
        ((2, 64, 128, 15, 17), 1, {"groups": 1}),
        ((5, 64, 128, 7, 6), 2, {"images": 3}),
        ((1, 64, 64, 9, 22), 1, {"groups": 2}),
        ((1, 64, 128, 2, 2), 1, {"columns": 64}),
    ],
)
def test_pool_and_argmax(program, tmp_path, size, cluster, expected):
    """Small whole numbers tie often, so the first maximum has to win; and a NaN wins over all."""
    n, c_in, c_out, h, w = size
    x = (torch.rand(n, c_in, h, w) < 0.02).float()
    x[0, 0, 1, 1] = float("nan")
    weights, b = _whole((c_out, c_in, 3, 3), 1), _whole((c_out,), 2)
    y, argmax, plan = _run(program, tmp_path, x, weights, b, True, True, SLABS, cluster, cluster)
    want, code = EagerBackend().conv3x3(
        to_channels_last(x.double()), weights.double(), b.double(), True, True, True
    )
    assert torch.equal(y.isnan(), want.isnan())
    assert torch.equal(y.nan_to_num(), want.float().nan_to_num())
    assert argmax is not None
    assert code is not None
    assert torch.equal(argmax, code)
    assert plan | expected == plan


@pytest.mark.parametrize("pool", [False, True])
def test_staging_in_two_parts(program, tmp_path, pool):
    """Tall pairs of tiles leave no room to stage all rows at once."""
    x, weights = _whole((1, 64, 16, 112), 2), _whole((64, 64, 3, 3), 2)
    y, _, plan = _run(program, tmp_path, x, weights, None, False, pool)
    want = torch.conv2d(x.double(), weights.double(), padding=1)
    want = torch.max_pool2d(want, 2) if pool else want
    assert torch.equal(y, want.bfloat16().float())
    assert (plan["parts"], plan["groups"], plan["columns"]) == (2, 2, 232)


def test_dgrad_is_the_convolution_with_rotated_weights(program, tmp_path):
    dz, w = _whole((1, 128, 6, 7), 2), _whole((128, 64, 3, 3), 2)
    dx, _, _ = _run(program, tmp_path, dz, w, None, False, False, rotated=True)
    want = torch.conv_transpose2d(dz.double(), w.double(), padding=1)
    assert torch.equal(dx, want.bfloat16().float())


def test_every_plan_keeps_the_limits_of_the_hardware(program):
    sizes = [(1, 1), (2, 3), (7, 7), (14, 14), (28, 28), (31, 65), (56, 56), (112, 112), (224, 224),
             (300, 500), (1, 4000), (4000, 1)]  # fmt: skip
    calls = [
        (n, h, w, c_in, c_out, pool, form, multiprocessors)
        for h, w in sizes
        for n in (1, 3, 64, 1000)
        for c_in, c_out in ((64, 64), (64, 128), (512, 512), (512, 192))
        for pool in range(2 if min(h, w) > 1 else 1)
        for form in (SLABS, SWIZZLED)
        for multiprocessors in (2, 132)
    ]
    text = "\n".join(" ".join(map(str, call)) for call in calls)
    done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == len(calls)
    assert [pair for pair in zip(calls, said, strict=True) if pair[1] != "ok"] == []
