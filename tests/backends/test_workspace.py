"""No memory for a kernel's workspace: an automatic choice falls back, a forced one raises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import vggfast
from vggfast import BackendError, backends, ops
from vggfast.backends.cpu import CpuBackend


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    backends.clear_cache()
    yield
    backends.clear_cache()


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def conv3x3(self: CpuBackend, *args: object) -> None:
        raise MemoryError("no memory is left for the 12 MB workspace of fprop")

    monkeypatch.setattr(CpuBackend, "conv3x3", conv3x3)


def layer() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((1, 4, 6, 6), generator=generator)
    return x, torch.randn((3, 4, 3, 3), generator=generator)


def test_the_automatic_choice_falls_back_and_says_so(no_memory: None) -> None:
    x, w = layer()
    assert "workspace" not in vggfast.explain("cpu")
    y = ops.conv3x3(x, w)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, w, padding=1))
    told = "cpu once gave a call to eager: no memory is left for the 12 MB workspace of fprop"
    assert told in vggfast.explain("cpu")


def test_a_forced_backend_raises(no_memory: None) -> None:
    with pytest.raises(
        BackendError,
        match=r"backend 'cpu' was asked for conv3x3 on cpu in float32, but no memory is left for "
        r"the 12 MB workspace of fprop",
    ):
        ops.conv3x3(*layer(), backend="cpu")


def test_an_error_of_another_kind_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    def conv3x3(self: CpuBackend, *args: object) -> None:
        raise ZeroDivisionError("a fault of the kernel")

    monkeypatch.setattr(CpuBackend, "conv3x3", conv3x3)
    with pytest.raises(ZeroDivisionError):
        ops.conv3x3(*layer())
