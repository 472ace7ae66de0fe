"""How float32 products are made: the setting, the tiles it chooses, the error it costs on a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from triton_cases import GPU, maps, weights
from vggfast.kernels import ops, precision, tiles
from vggfast.kernels.launch import gpu

import vggfast
from vggfast import InputError, reference

# ||y - ref|| / ||ref|| on Gaussian data; numbers cut off after 11 bits lose 4e-4 of each factor.
BOUND = {"ieee": 1e-6, "tf32x3": 2e-6, "tf32": 1.2e-3}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before, matrices = precision.get(), torch.backends.cuda.matmul.allow_tf32
    yield
    precision.set(before)
    torch.backends.cuda.matmul.allow_tf32 = matrices


def test_follows_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    vggfast.set_fp32_precision("torch")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert precision.of(torch.float32) == "tf32"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert precision.of(torch.float32) == "tf32x3"
    assert precision.of(torch.float16) == "ieee"
    torch.backends.cuda.matmul.allow_tf32 = True
    assert precision.of(torch.float32, matrix=True) == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False
    assert precision.of(torch.float32, matrix=True) == "tf32x3"


@pytest.mark.parametrize("matrix", [False, True])
def test_torchs_newer_setting(matrix: bool) -> None:
    """Once it is set, torch refuses to read the older flag."""
    if not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this torch has no fp32_precision")
    code = (
        "import torch; from vggfast.kernels import precision; precision.set('torch');"
        f"b = torch.backends.cuda.matmul if {matrix} else torch.backends.cudnn.conv;"
        f"b.fp32_precision = 'ieee'; assert precision.of(torch.float32, {matrix}) == 'tf32x3';"
        f"b.fp32_precision = 'tf32'; assert precision.of(torch.float32, {matrix}) == 'tf32'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", ["ieee", "tf32x3", "tf32"])
def test_set(mode: str) -> None:
    vggfast.set_fp32_precision(mode)
    assert vggfast.get_fp32_precision() == mode
    assert precision.of(torch.float32) == mode


def test_unknown_mode() -> None:
    with pytest.raises(
        InputError, match=r"mode: got 'fp64', allowed are torch, ieee, tf32x3, tf32"
    ):
        vggfast.set_fp32_precision("fp64")
    assert vggfast.get_fp32_precision() == "tf32x3"


def test_tiles_of_the_ordinary_cores(device: torch.device) -> None:
    x = torch.empty(0, device=device)
    for mode in BOUND:
        vggfast.set_fp32_precision(mode)
        for kernel in ("fprop", "wgrad"):
            tile = gpu.choose_tile(kernel, x, (4, 14, 14), 512, 512)
            assert (tile.bits, tile.ieee) == (32, mode == "ieee")
        half = gpu.choose_tile("fprop", x.half(), (4, 14, 14), 512, 512)
        assert (half.bits, half.ieee) == (16, False)
    assert all(t.bits == 32 for t in tiles.table() if t.ieee)


@pytest.mark.parametrize("mode", BOUND)
def test_error(mode: str, device: torch.device) -> None:
    """The interpreter makes all products in float32: the bounds mean something on a GPU alone."""
    x = maps((2, 40, 9, 9), torch.float32, device, seed=1)
    w, b = weights(24, 40, torch.float32, device, seed=1)
    grad = maps((2, 24, 9, 9), torch.float32, device, seed=2)
    vggfast.set_fp32_precision(mode)
    y, _ = ops.conv3x3(x, w, b, False, False, False)
    dx, dw, _ = ops.conv3x3_backward(grad, x, w, None, None, (True, True, False))
    leaves = [t.double().requires_grad_() for t in (x, w, b)]
    oracle = reference.conv3x3(*leaves)
    oracle.backward(grad.double())
    for ours, right in ((y, oracle.detach()), (dx, leaves[0].grad), (dw, leaves[1].grad)):
        assert ours is not None
        assert right is not None
        error = reference.errors(ours, right).rel
        assert error <= BOUND[mode]
        if GPU and mode == "tf32":
            assert error > BOUND["tf32x3"], "not made with TF32"
