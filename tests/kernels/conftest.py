"""Tests of the Triton kernels: on a GPU compiled, elsewhere in Triton's interpreter on CPU tensors.

Triton decides at its import whether it interprets. So the kernels are imported here, at
collection, with TRITON_INTERPRET=1 set for that import alone; each test of this folder sets it
again for itself, and tests of other folders see neither the variable nor a triton backend that
serves their calls.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from vggfast import backends

GPU = torch.cuda.is_available()
_GUARD = 64  # elements before and after every array that a kernel may write


def _load() -> None:
    if GPU:
        import vggfast.kernels.ops
    elif "vggfast.kernels.ops" not in sys.modules:
        before = os.environ.get("TRITON_INTERPRET")
        os.environ["TRITON_INTERPRET"] = "1"
        try:
            import vggfast.kernels.ops  # noqa: F401
            from vggfast.kernels import gluon_plan

            gluon_plan.absent()  # loads the Gluon kernel, whose package looks at the variable too
        finally:
            if before is None:
                del os.environ["TRITON_INTERPRET"]
            else:
                os.environ["TRITON_INTERPRET"] = before


_TOO_LATE = not GPU and "triton" in sys.modules and "vggfast.kernels.ops" not in sys.modules
_load()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if GPU else "cpu")


@pytest.fixture(autouse=True)
def interpret(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the triton backend serve CPU tensors in this test, where there is no GPU."""
    if _TOO_LATE:
        pytest.fail(
            "a test module imported triton (torch._dynamo does) at collection, before "
            "tests/kernels/conftest.py could ask for its interpreter: import it inside the tests"
        )
    if not GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    backends.clear_cache()
    yield
    backends.clear_cache()


@pytest.fixture(autouse=True)
def float32_means_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither torch's convolutions nor ours use TF32 here, unless a test asks for it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fill what torch.empty gives with NaN or 0xA5, and watch the memory on both sides of it."""
    real: Callable[..., Tensor] = torch.empty
    guarded: list[tuple[Tensor, int]] = []

    def empty(*size: Any, **options: Any) -> Tensor:
        if GPU and torch.cuda.is_current_stream_capturing():
            return real(*size, **options)  # what is captured here fills nothing until a replay
        if options.get("memory_format") is not None:
            out = real(*size, **options)
            return out.fill_(_poison(out))
        shape = real(*size, device="meta").shape
        flat = real((shape.numel() + 2 * _GUARD,), **options)
        flat.fill_(_poison(flat))
        guarded.append((flat, shape.numel()))
        return flat[_GUARD : _GUARD + shape.numel()].view(shape)

    monkeypatch.setattr(torch, "empty", empty)
    yield
    for flat, size in guarded:
        for side in (flat[:_GUARD], flat[_GUARD + size :]):
            assert _is_poison(side), f"a kernel wrote outside an array of {size} {flat.dtype}"


def _poison(t: Tensor) -> float | int:
    return float("nan") if t.is_floating_point() else 0xA5


def _is_poison(t: Tensor) -> bool:
    return bool(t.isnan().all() if t.is_floating_point() else (t == 0xA5).all())
