"""bfloat16 on the CPU: every instruction set, edge cases, what is stored and what is kept."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import vggfast
from tests.tolerance import assert_close
from vggfast import backends, ops, reference
from vggfast.backends import Call, cpu_weights, native
from vggfast.backends import argmax as packed
from vggfast.configs import conv_layers

CALL = Call("conv3x3", "cpu", torch.bfloat16, 64, 64)
_WHY_NOT = native.module().build_config()["bf16_why_not"] if native.why_missing() is None else None
needs_kernels = pytest.mark.skipif(_WHY_NOT is not None, reason=str(_WHY_NOT))


def _run(isa: str, *command: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VGGFAST_CPU_ISA": isa}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=env, check=False
    )


@pytest.fixture(autouse=True)
def _no_kept_weights():
    cpu_weights.clear()
    yield
    cpu_weights.clear()


def _layer(n, c_in, c_out, h, w):
    x = torch.randn(n, c_in, h, w).bfloat16().contiguous(memory_format=torch.channels_last)
    weight = (torch.randn(c_out, c_in, 3, 3) * (2 / (9 * c_in)) ** 0.5).bfloat16()
    return x, weight, torch.randn(c_out).bfloat16()


@pytest.mark.parametrize("isa", ["scalar", "avx512bf16", "amx"])
def test_every_instruction_set(isa):
    done = _run(isa, "-m", "tests.native.bf16_program", isa)
    if "this CPU lacks" in done.stderr:
        pytest.skip(f"this CPU lacks {isa}")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 1


def test_without_the_instructions_it_says_so():
    done = _run(
        "avx2", "-c", "import torch, vggfast; print(vggfast.explain('cpu', torch.bfloat16))"
    )
    if "this CPU lacks" in done.stderr:
        pytest.skip("this CPU lacks avx2")
    assert "conv3x3       eager" in done.stdout
    assert "not cpu: its bfloat16 kernels need AVX512-BF16 or AMX" in done.stdout


@needs_kernels
def test_the_kernels_serve_bf16_and_explain_says_what_runs():
    isa = native.module().build_config()["bf16_isa"]
    assert backends.select(CALL).name == "cpu"
    text = vggfast.explain("cpu", torch.bfloat16)
    assert f"own {isa} kernel, backward torch's" in text
    half = backends.get("cpu").refuse(Call("conv3x3", "cpu", torch.float16))
    assert half == "its kernels are float32 and bfloat16 only, not float16"


@needs_kernels
@pytest.mark.parametrize("layer", conv_layers("A"), ids=lambda layer: layer.name)
def test_real_layers(layer):
    if layer.h > 56:  # the sums are as long in a part of the map
        layer = type(layer)(**{**vars(layer), "h": 40, "w": layer.w})
    x, w, b = _layer(1, layer.c_in, layer.c_out, layer.h, layer.w)
    y = ops.conv3x3(x, w, b, relu=True, pool=layer.pool, backend="cpu")
    exact = reference.conv3x3(x.double(), w.double(), b.double(), True, layer.pool)
    assert_close("y", y, exact, reference.conv3x3(x, w, b, True, layer.pool))


@needs_kernels
@pytest.mark.parametrize("h", [*range(1, 10), 16, 17])
def test_small_maps(h):
    for n, c_in, w in [(1, 3, 18 - h), (3, 33, h), (2, 64, 1)]:
        x, weight, b = _layer(n, c_in, 18, h, w)
        y = ops.conv3x3(x, weight, b, relu=True, backend="cpu")
        exact = reference.conv3x3(x.double(), weight.double(), b.double(), True, False)
        assert_close("y", y, exact, reference.conv3x3(x, weight, b, True, False))


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("c_in", [3, 40])
def test_what_is_not_finite_spreads_as_in_torch(c_in, value, pool, relu):
    x, w, b = _layer(2, c_in, 20, 9, 12)
    x[1, 2, 3, 4] = value
    y = ops.conv3x3(x, w, b, relu=relu, pool=pool, backend="cpu")
    plain = reference.conv3x3(x.float(), w.float(), b.float(), relu, pool)
    torch.testing.assert_close(y.float(), plain, rtol=0.02, atol=0.02, equal_nan=True)


@needs_kernels
def test_a_negative_zero_does_not_win_a_window():
    """After a ReLU windows are compared as whole numbers, among which -0 would be the largest."""
    x = torch.zeros(1, 3, 4, 4).bfloat16()
    x[0, 0, 0, 0] = 1.0
    w = torch.zeros(40, 3, 3, 3).bfloat16()
    w[:, 0, 1, 1] = 1.0
    b = torch.full((40,), -0.0).bfloat16()
    y = ops.conv3x3(x, w, b, relu=True, pool=True, backend="cpu")
    assert y[0, 0].tolist() == [[1, 0], [0, 0]]
    assert not torch.signbit(y).any()


@needs_kernels
@pytest.mark.parametrize("relu", [False, True])
def test_the_argmax_agrees_with_what_is_stored(relu):
    """Integers: many equal values in a window, exact in bfloat16."""
    x = torch.randint(-1, 2, (2, 5, 9, 11)).bfloat16()
    w = torch.randint(-1, 2, (37, 5, 3, 3)).bfloat16()
    cpu = backends.get("cpu")
    y, codes = cpu.conv3x3(
        x.contiguous(memory_format=torch.channels_last), w, None, relu, True, True
    )
    before = reference.conv3x3(x, w, None, relu, False)
    plain, indices = F.max_pool2d(before, 2, return_indices=True)
    assert torch.equal(y, plain)
    assert torch.equal(codes, packed.pack(indices, 11))


@needs_kernels
def test_gradients():
    x, w, b = (t.requires_grad_() for t in _layer(2, 20, 24, 10, 9))
    y = ops.conv3x3(x, w, b, relu=True, pool=True, backend="cpu")
    plain = reference.conv3x3(x, w, b, True, True)
    z = reference.conv3x3(*(t.detach().double() for t in (x, w, b)), False, False)
    grad = reference.clear_gradient(torch.randn(y.shape), z, True, True).bfloat16()
    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    exact = torch.autograd.grad(reference.conv3x3(*wide, True, True), wide, grad.double())
    got, want = (torch.autograd.grad(t, (x, w, b), grad) for t in (y, plain))
    for name, a, e, t in zip(("dx", "dw", "db"), got, exact, want, strict=True):
        assert_close(name, a, e, t, grad.abs().sum((0, 2, 3)) if name == "db" else None)


@needs_kernels
def test_layout_does_not_matter_and_results_repeat():
    x, w, b = _layer(3, 40, 48, 20, 22)
    want = ops.conv3x3(x, w, b, relu=True, backend="cpu")
    views = (x.contiguous(), torch.stack([x, x], 1)[:, 0], x.transpose(2, 3).contiguous().mT, x)
    for view in views:
        assert torch.equal(ops.conv3x3(view, w, b, relu=True, backend="cpu"), want)
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            assert torch.equal(ops.conv3x3(x, w, b, relu=True, backend="cpu"), want)
    finally:
        torch.set_num_threads(before)
    assert ops.conv3x3(x[:0], w, b, pool=True, backend="cpu").shape == (0, 48, 10, 11)


@needs_kernels
def test_packed_weights_are_kept_and_changes_are_seen():
    x, w, _ = _layer(1, 40, 24, 8, 8)
    first = ops.conv3x3(x, w, backend="cpu")
    assert cpu_weights.kept_bytes() == 0
    assert torch.equal(ops.conv3x3(x, w, backend="cpu"), first)
    assert cpu_weights.kept_bytes() > 0
    assert torch.equal(ops.conv3x3(x, w, backend="cpu"), first)
    w.mul_(2)
    assert torch.equal(ops.conv3x3(x, w, backend="cpu"), 2 * first)


@needs_kernels
def test_a_network_in_bf16_and_under_autocast():
    model = vggfast.vgg("A", num_classes=10, crop=32).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        want = model(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model(x)
        low = model.bfloat16()(x.bfloat16())
    for got in (cast, low):
        assert got.dtype is torch.bfloat16
        assert ((got - want).norm() / want.norm()).item() < 0.03


@needs_kernels
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bf16_conv3x3", (0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, False, False, 1)),
        ("bf16_conv3x3", (1, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, False, True, 1)),
        ("bf16_maxpool2x2", (1, 1, 0, 1, 1, 1, 1, 1)),
        ("bf16_linear", (1, 0, 0, 1, 1, 1, 1, False, 1)),
        ("bf16_pack", (1, 0, 1, 1, 1)),
    ],
)
def test_memory_safety_is_checked_again(name, arguments):
    with pytest.raises(ValueError, match=r"null|out of range|at least"):
        getattr(native.module(), name)(*arguments)
