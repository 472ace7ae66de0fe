"""Tests of the CUDA C++ kernels: on a GPU compiled, elsewhere the same kernels emulated on the CPU.

``both_orders`` runs a call with a block's threads taking turns forwards and backwards: where a
barrier is missing the results differ.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from vggfast import backends
from vggfast.backends import cuda_launch, native

GPU = torch.cuda.is_available()
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if GPU else "cpu")


@pytest.fixture(autouse=True)
def emulate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the cuda backend serve CPU tensors in this test, where there is no GPU."""
    not_built = cuda_launch.why_not_built() if GPU else None
    if not_built is not None and importlib.util.find_spec("cupy") is None:
        pytest.skip(f"{not_built}, and CuPy is not installed")
    if not GPU:
        if not native.module().build_config()["cuda_emulated"]:
            pytest.skip("there is no GPU, and the emulator needs Linux")
        monkeypatch.setenv("VGGFAST_CUDA_EMULATE", "1")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    backends.clear_cache()
    yield
    backends.clear_cache()


@pytest.fixture
def both_orders(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], list[Tensor]]], None]:
    """Run a call twice, the second time with threads in the other order: equal bit for bit."""

    def check(call: Callable[[], list[Tensor]]) -> None:
        first = call()
        monkeypatch.setenv("VGGFAST_CUDA_EMULATE_BACKWARDS", "1")  # on a GPU only a repetition
        for a, b in zip(first, call(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)

    return check
