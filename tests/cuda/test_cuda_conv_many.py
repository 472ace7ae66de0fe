"""The cuda backend's conv3x3 beyond a first layer: when it serves, and what it makes of a call.

The kernel itself needs a GPU of capability 9.0 (tests/native/test_cuda_conv.py runs it, and an
emulator its own code). Here it is a stand-in on torch, which multiplies by packed weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from vggfast.kernels import kept

import vggfast
from tests.cuda.conftest import GPU
from tests.tolerance import assert_close
from vggfast import backends, ops, reference
from vggfast.backends import Call, cuda_conv, cuda_launch
from vggfast.backends.cuda import CudaBackend
from vggfast.backends.eager import EagerBackend
from vggfast.errors import LaunchError

EAGER = EagerBackend()
DEVICE = "cuda" if GPU else "cpu"
SERVES = GPU and cuda_conv.unavailable() is None


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Where the kernel cannot run, a stand-in; the list notes ``rotated`` of each packing."""
    noted: list[bool] = []
    real = cuda_conv.pack

    def pack(w: Tensor, rotated: bool = False, out: Tensor | None = None) -> Tensor:
        noted.append(rotated)
        if SERVES:
            return real(w, rotated, out)
        rows = w.transpose(0, 1).flip(2, 3).contiguous() if rotated else w.detach().clone()
        return rows if out is None else out.copy_(rows)

    def conv3x3(x, rows, b, relu, pool, save_argmax, form="slabs", cluster=0):
        assert x.is_contiguous(memory_format=torch.channels_last)
        return EAGER.conv3x3(x, rows, b, relu, pool, save_argmax)

    monkeypatch.setattr(cuda_conv, "pack", pack)
    if not SERVES:
        monkeypatch.setattr(cuda_conv, "conv3x3", conv3x3)
        monkeypatch.setattr(cuda_conv, "unavailable", lambda: None)
    backends.clear_cache()
    kept.changed()
    yield noted
    kept.changed()


def case(dtype: torch.dtype, c_in: int = 64, c_out: int = 128) -> list[Tensor]:
    """x, w, b."""
    x = torch.randn(2, c_in, 6, 5).contiguous(memory_format=torch.channels_last)
    w = torch.randn(c_out, c_in, 3, 3) / (9 * c_in) ** 0.5
    return [t.to(DEVICE, dtype) for t in (x, w, torch.randn(c_out))]


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("relu", "pool", "bias"),
    [(True, False, True), (True, True, True), (False, True, True), (False, False, False)],
)
def test_result_and_gradients(relu, pool, bias, dtype):
    given = case(dtype)[: 3 if bias else 2]
    absent = [None] * (3 - len(given))
    z = reference.conv3x3(*(t.double() for t in given), *absent, False, False)
    size = z.shape if not pool else (*z.shape[:2], z.shape[2] // 2, z.shape[3] // 2)
    grad = reference.clear_gradient(torch.randn(size).to(DEVICE), z, pool, relu)

    def result(kind, **how):
        leaves = [t.to(kind).requires_grad_() for t in given]
        if how:
            y = ops.conv3x3(*leaves, relu=relu, pool=pool, **how)
        else:
            y = reference.conv3x3(*leaves, *absent, relu, pool)
        return y, *torch.autograd.grad(y, leaves, grad.to(kind))

    trio = [result(dtype, backend="cuda"), result(torch.float64), result(dtype, backend="eager")]
    for name, a, b, c in zip(("y", "dx", "dw", "db"), *trio, strict=False):
        assert_close(f"{name}, relu={relu}, pool={pool}", a, b, c)


def test_weights_are_kept_packed_while_they_stay_the_same(packed: list[bool]):
    x, w, b = case(torch.bfloat16)
    for _ in range(4):
        before = ops.conv3x3(x, w, b, backend="cuda")
    assert packed == [False, False]
    w.mul_(2)
    b.mul_(2)
    assert torch.equal(ops.conv3x3(x, w, b, backend="cuda"), 2 * before)
    assert packed == [False] * 3
    leaf = x.clone().requires_grad_()
    ops.conv3x3(leaf, w, b, backend="cuda").sum().backward()
    assert packed == [False] * 4 + [True]
    vggfast.clear_weights()
    ops.conv3x3(x, w, b, backend="cuda")
    assert packed[5:] == [False]


def test_a_graph_holds_what_it_reads(packed: list[bool]):
    _, w, _ = case(torch.bfloat16)
    held = backends.hold_weights([w])
    with held.use():
        rows = cuda_conv.packed(w)
        assert cuda_conv.packed(w) is rows
    before = rows.clone()
    w.mul_(2)
    assert held.refresh()
    assert torch.equal(rows, 2 * before)
    assert held.nbytes == rows.nbytes
    assert packed == [False, False]


@pytest.mark.usefixtures("packed")
def test_no_images():
    x, w, b = case(torch.float16)
    leaves = [t.requires_grad_() for t in (x[:0], w, b)]
    y = ops.conv3x3(*leaves, relu=True, pool=True, backend="cuda")
    assert y.shape == (0, 128, 3, 2)
    dx, dw, db = torch.autograd.grad(y, leaves, torch.zeros_like(y))
    assert dx.shape == (0, 64, 6, 5)
    assert not dw.any()
    assert not db.any()


@pytest.mark.usefixtures("packed")
def test_explain_says_who_makes_what(monkeypatch):
    text = vggfast.explain(DEVICE, torch.bfloat16, "cuda")
    assert f"conv3x3       cuda    own kernel, {cuda_launch.how()}" in text
    assert "    of up to 3 channels: dgrad torch's library kernel" in text
    made = "of multiples of 64: built by nvcc for sm_90a; wgrad "
    for reason, wgrad in ((None, "Triton's kernel"), ("why", "torch's library kernel (why)")):
        monkeypatch.setattr(
            "vggfast.backends.cuda._why_not_triton", lambda *_, reason=reason: reason
        )
        assert made + wgrad in vggfast.explain(DEVICE, torch.bfloat16, "cuda")


def test_why_it_refuses(monkeypatch):
    call = Call("conv3x3", "cuda", torch.bfloat16, 64, 128)
    if not GPU:
        here = Call("conv3x3", "cpu", torch.bfloat16, 64, 128)
        reason = "its conv3x3 beyond a first layer is not emulated, it needs a GPU"
        assert CudaBackend().refuse(here) == reason
    monkeypatch.delenv("VGGFAST_CUDA_EMULATE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_launch, "why_not_built", lambda: "it has no CUDA")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    reason = "its conv3x3 beyond a first layer is built by nvcc alone, and it has no CUDA"
    assert CudaBackend().refuse(call) == reason
    monkeypatch.setattr(cuda_launch, "why_not_built", lambda: None)
    assert CudaBackend().refuse(call) is None
    for major in (8, 10):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_, major=major: (major, 0))
        assert CudaBackend().refuse(call) == (
            f"its conv3x3 beyond a first layer needs compute capability 9.0, this GPU has {major}.0"
        )


def test_a_failing_launch_names_kernel_and_shape(monkeypatch):
    class Device:
        cuda_stream = 7

        def __init__(self, device=None):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def fail(stream):
        assert stream == 7
        raise RuntimeError("CUDA: invalid resource handle")

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "current_stream", Device)
    with pytest.raises(LaunchError) as caught:
        cuda_conv._launch("conv3x3_sm90", torch.empty(2, 64, 3, 3), fail)
    assert str(caught.value) == (
        "conv3x3_sm90 of (2, 64, 3, 3) on cpu: CUDA: invalid resource handle"
    )
