"""The index arithmetic of the convolution for Hopper, followed on the CPU: conv3x3_sm90_model.cpp.

What stays open without a GPU is whether the hardware does what the PTX ISA says.
"""

from __future__ import annotations

import ctypes
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
SLABS, SWIZZLED, SWIZZLED_OFFSET = 0, 1, 2
FORMS = (SLABS, SWIZZLED, SWIZZLED_OFFSET)


class Seen(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_int)
        for name in (
            "columns", "cluster", "images", "rows", "width", "pitch", "box_rows", "parts",
            "groups", "units", "shared_bytes",
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler ({compiler})")
    library = tmp_path_factory.mktemp("model") / "model.so"
    source = HERE / "conv3x3_sm90_model.cpp"
    subprocess.run(
        [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", "-Wall", "-Werror",
         "-Wno-unused-function", "-I", str(HERE.parents[1] / "csrc"), str(source), "-o",
         str(library)],
        check=True,
    )  # fmt: skip
    lib = ctypes.CDLL(str(library))
    lib.model_conv3x3.restype = lib.model_limits.restype = ctypes.c_char_p
    lib.model_conv3x3.argtypes = (
        [ctypes.c_void_p] * 5 + [ctypes.c_long] * 5 + [ctypes.c_bool] * 2 + [ctypes.c_int] * 3
        + [ctypes.c_void_p]
    )  # fmt: skip
    lib.model_pack.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int] * 2 + [ctypes.c_bool]
    lib.model_limits.argtypes = [ctypes.c_long] * 5 + [ctypes.c_bool] + [ctypes.c_int] * 2
    return lib


def _whole(size: tuple[int, ...], most: int) -> Tensor:
    return torch.randint(-most, most + 1, size).float()


def _packed(model: ctypes.CDLL, w: Tensor, rotated: bool = False) -> Tensor:
    c_out, c_in = (w.shape[1], w.shape[0]) if rotated else (w.shape[0], w.shape[1])
    packed = torch.empty(w.numel())
    model.model_pack(w.data_ptr(), packed.data_ptr(), c_in, c_out, rotated)
    return packed


def _run(model, x, packed, b, c_out, relu, pool, form, cluster, multiprocessors):
    n, c_in, h, w = x.shape
    size = (n, c_out, h // 2, w // 2) if pool else (n, c_out, h, w)
    y = to_channels_last(torch.full(size, float("nan")))
    argmax = torch.full((n, h // 2, w // 2, c_out // 4), 255, dtype=torch.uint8)
    seen = Seen()
    error = model.model_conv3x3(
        x.data_ptr(), packed.data_ptr(), None if b is None else b.data_ptr(), y.data_ptr(),
        argmax.data_ptr(), n, h, w, c_in, c_out, relu, pool, form, cluster, multiprocessors,
        ctypes.byref(seen),
    )  # fmt: skip
    assert error is None, error.decode()
    return y, argmax, seen


# (n, c_in, c_out, h, w), cluster, multiprocessors: few of them ask for large tiles.
SHAPES = {
    "one pixel": ((1, 64, 128, 1, 1), 1, 132),
    "whole maps, several a tile": ((9, 64, 128, 7, 7), 2, 2),
    "boxes inside a map": ((1, 64, 128, 28, 27), 1, 1),
    "a map a tile, two blocks of inputs": ((1, 128, 128, 14, 14), 1, 1),
    "whole rows": ((1, 64, 128, 7, 56), 1, 1),
    "parts of rows": ((1, 64, 128, 4, 112), 2, 2),
    "the second warpgroup has the lower rows": ((1, 64, 64, 10, 60), 2, 2),
    "several images for two groups": ((3, 64, 64, 4, 5), 1, 2),
    "three blocks of 64": ((1, 64, 192, 6, 9), 2, 132),
    "one row": ((2, 64, 128, 1, 33), 1, 2),
    "one column": ((2, 64, 128, 33, 1), 2, 2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", SHAPES)
def test_convolution(model, case, form):
    (n, c_in, c_out, h, w), cluster, multiprocessors = SHAPES[case]
    x = to_channels_last(_whole((n, c_in, h, w), 3))
    weights, b = _whole((c_out, c_in, 3, 3), 2), _whole((c_out,), 9)
    packed = _packed(model, weights)
    y, _, seen = _run(
        model, x, packed, b, c_out, True, False, form, cluster, multiprocessors
    )  # fmt: skip
    want = torch.conv2d(x.double(), weights.double(), b.double(), padding=1).relu()
    assert torch.equal(y.double(), want), {f: getattr(seen, f) for f, _ in Seen._fields_}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("size", "cluster"),
    [
        ((2, 64, 128, 15, 17), 1),
        ((1, 64, 64, 17, 56), 2),
        ((5, 64, 128, 7, 6), 2),
        ((1, 64, 128, 2, 2), 1),
        ((2, 128, 128, 3, 30), 1),
    ],
)
def test_pool_and_argmax(model, size, cluster, form):
    """Small whole numbers tie often, so the first maximum has to win."""
    n, c_in, c_out, h, w = size
    x = to_channels_last((torch.rand(n, c_in, h, w) < 0.02).float())
    weights, b = _whole((c_out, c_in, 3, 3), 1), _whole((c_out,), 2)
    packed = _packed(model, weights)
    y, argmax, _ = _run(model, x, packed, b, c_out, True, True, form, cluster, 2)
    want, code = EagerBackend().conv3x3(x.double(), weights.double(), b.double(), True, True, True)
    assert torch.equal(y.double(), want)
    assert code is not None
    assert torch.equal(argmax, code)


def test_the_shapes_reach_every_kind_of_tile(model):
    """Else the cases above would leave one untested."""
    seen = []
    for (n, c_in, c_out, h, w), cluster, multiprocessors in SHAPES.values():
        x, packed = to_channels_last(torch.zeros(n, c_in, h, w)), torch.zeros(9 * c_in * c_out)
        seen.append(
            _run(model, x, packed, None, c_out, False, False, 0, cluster, multiprocessors)[2]
        )
    assert {s.pitch - s.width for s in seen} == {1, 2}
    assert {s.box_rows - s.rows * s.groups for s in seen} == {1, 2}
    assert {s.groups for s in seen} == {1, 2}
    assert {s.cluster for s in seen} == {1, 2}
    assert any(s.images > 1 for s in seen)
    assert {s.columns for s in seen} >= {64, 208, 216, 232}


def test_staging_in_two_parts(model):
    """Tall pairs of tiles leave no room to stage all rows at once."""
    x = to_channels_last(_whole((1, 64, 16, 112), 2))
    weights = _whole((64, 64, 3, 3), 2)
    packed = _packed(model, weights)
    for pool in (False, True):
        y, _, seen = _run(model, x, packed, None, 64, False, pool, SLABS, 1, 2)
        want = torch.conv2d(x.double(), weights.double(), padding=1)
        assert torch.equal(y.double(), torch.max_pool2d(want, 2) if pool else want)
        assert seen.parts == 2


@pytest.mark.parametrize(("c_out", "c_in"), [(128, 64), (64, 128), (192, 64)])
def test_packed_weights(model, c_out, c_in):
    """[channel block][64 inputs][tap][8 inputs][outputs][8 inputs], by torch's own reshaping."""
    w = torch.arange(c_out * c_in * 9).reshape(c_out, c_in, 3, 3).float()
    block = 128 if c_out % 128 == 0 else 64
    parts = w.reshape(c_out // block, block, c_in // 64, 8, 8, 9)
    want = parts.permute(0, 2, 5, 3, 1, 4).reshape(-1)
    assert torch.equal(_packed(model, w), want)
    turned = w.flip(2, 3).transpose(0, 1).contiguous()  # (c_in, c_out): packed to serve its dgrad
    assert torch.equal(_packed(model, turned, rotated=True), want)


def test_dgrad_is_the_same_convolution(model):
    dz, w = to_channels_last(_whole((1, 128, 9, 11), 2)), _whole((128, 64, 3, 3), 2)
    dx, _, _ = _run(model, dz, _packed(model, w, True), None, 64, False, False, SLABS, 1, 132)
    want = torch.conv_transpose2d(dz.double(), w.double(), padding=1)
    assert torch.equal(dx.double(), want)


@pytest.mark.parametrize("form", [SLABS, SWIZZLED])
def test_limits_of_every_plan(model, form):
    sizes = [(1, 1), (2, 3), (7, 7), (14, 14), (28, 28), (31, 65), (56, 56), (112, 112), (224, 224),
             (300, 500), (1, 4000), (4000, 1)]  # fmt: skip
    for h, w in sizes:
        for n in (1, 3, 64, 1000):
            for c_in, c_out in ((64, 64), (64, 128), (512, 512), (512, 192)):
                for pool in (False, True) if min(h, w) > 1 else (False,):
                    for multiprocessors in (2, 132):
                        call = (n, h, w, c_in, c_out, pool, form, multiprocessors)
                        error = model.model_limits(*call)
                        assert error is None, (error.decode(), call)
