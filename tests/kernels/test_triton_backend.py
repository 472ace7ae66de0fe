"""The triton backend: when it serves, why it refuses, and the ops through it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from triton_cases import GPU, maps, weights

from vggfast import BackendError, backends, ops
from vggfast.backends.base import Call
from vggfast.backends.triton import TritonBackend

DEVICE = "cuda" if GPU else "cpu"
only_interpreted = pytest.mark.skipif(
    GPU, reason="about the interpreter, which a GPU does not need"
)


def test_available_here() -> None:
    backend = TritonBackend()
    assert backend.unavailable() is None
    assert backend.refuse(Call("conv3x3", DEVICE, torch.float32)) is None
    assert backend.how("conv3x3") == "own kernel, backward in chains"
    assert backend.how("linear") == "own kernel (<= 16 rows, else torch's), backward torch's"
    assert backend.how("lrn") == "torch's library kernel"


def test_refusals() -> None:
    backend = TritonBackend()
    reason = backend.refuse(Call("conv3x3", DEVICE, torch.float64))
    assert reason == "its kernels take float16, bfloat16 and float32, not float64"
    assert "mps" in str(backend.refuse(Call("conv3x3", "mps", torch.float32)))


@only_interpreted
def test_refusals_of_the_interpreter() -> None:
    backend = TritonBackend()
    reason = backend.refuse(Call("conv3x3", "cpu", torch.bfloat16))
    assert reason == "triton's interpreter multiplies bfloat16 wrongly"
    assert "not cuda" in str(backend.refuse(Call("conv3x3", "cuda", torch.float16)))


@only_interpreted
def test_unavailable_without_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    backends.clear_cache()
    reason = "there is no NVIDIA GPU (nor TRITON_INTERPRET=1)"
    assert TritonBackend().unavailable() == reason
    with pytest.raises(BackendError, match="there is no NVIDIA GPU"):
        ops.maxpool2x2(torch.zeros(1, 1, 2, 2), backend="triton")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TritonBackend().unavailable() == (
        "TRITON_INTERPRET was unset after its kernels were loaded"
    )


def test_unavailable_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert TritonBackend().unavailable() == "triton is not installed"


def test_old_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    reason = TritonBackend().refuse(Call("conv3x3", "cuda", torch.float16))
    assert reason == "its kernels need compute capability 8.0, this GPU has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    assert "not tried on compute capability 12.0" in str(
        TritonBackend().refuse(Call("conv3x3", "cuda", torch.float16))
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert TritonBackend().refuse(Call("conv3x3", "cuda", torch.float16)) is None


def test_making_it_imports_no_triton() -> None:
    code = (
        "import sys; from vggfast.backends.triton import TritonBackend; TritonBackend(); "
        "sys.exit('triton' in sys.modules or 'vggfast.kernels.ops' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_ops_through_it_equal_eager(device: torch.device) -> None:
    """Forward and backward of two fused layers through autograd, NCHW input included."""
    x = maps((2, 3, 8, 10), torch.float32, device, seed=1).contiguous()
    first, bias = weights(8, 3, torch.float32, device, seed=1)
    second, _ = weights(6, 8, torch.float32, device, seed=2)

    def run(backend: str) -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (x, first, bias, second)]
        y = ops.conv3x3(leaves[0], leaves[1], leaves[2], relu=True, pool=True, backend=backend)
        y = ops.conv3x3(y, leaves[3], relu=True, backend=backend)
        y = ops.maxpool2x2(y, backend=backend)
        y.square().sum().backward()
        return [y.detach(), *(t.grad for t in leaves if t.grad is not None)]

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # ours does not by default
        ours, theirs = run("triton"), run("eager")
    assert len(ours) == len(theirs) == 5
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_no_memory_for_a_workspace(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch raises when a GPU is full comes out as a sentence that names the use and size."""
    real = torch.empty

    def full(*size: object, **options: object) -> torch.Tensor:
        if options.get("dtype") is torch.float32 and len(size) == 1 and len(size[0]) == 4:  # type: ignore[arg-type]
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(*size, **options)  # type: ignore[arg-type]

    x = maps((1, 40, 4, 4), torch.float16, device, seed=1)
    w, _ = weights(8, 40, torch.float16, device, seed=1)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(
        BackendError, match=r"but no memory is left for the \d+ MB workspace of fprop"
    ):
        ops.conv3x3(x, w, backend="triton")
