"""The gradient to an image: the first layer's dgrad kernel, with the ReLU's mask in its loads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.tolerance import assert_close
from vggfast import ops, reference

# (N, C_in, C_out, H, W): edges, odd sizes, channels off every block, maps of several tasks.
SHAPES = [
    (1, 3, 64, 40, 36), (2, 3, 64, 7, 15), (3, 1, 5, 1, 1), (1, 2, 33, 9, 1), (1, 3, 100, 1, 29),
    (5, 3, 16, 17, 6), (1, 3, 64, 130, 3),
]  # fmt: skip


def _tensors(shape):
    n, c_in, c_out, h, w = shape
    x, weight, b = torch.randn(n, c_in, h, w), torch.randn(c_out, c_in, 3, 3), torch.randn(c_out)
    return x, weight, b, torch.randn(n, c_out, h, w)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_of_frozen_weights(shape, relu):
    """Against float64; and bit for bit what it is where the mask is applied before, for wgrad."""
    x, w, b, grad = _tensors(shape)
    z = reference.conv3x3(x.double(), w.double(), b.double(), False, False)
    grad = reference.clear_gradient(grad, z, False, relu)
    x = x.requires_grad_()
    y = ops.conv3x3(x, w, b, relu=relu, backend="cpu")
    (dx,) = torch.autograd.grad(y, x, grad)

    def plain(dtype):
        leaf = x.detach().to(dtype).requires_grad_()
        y = reference.conv3x3(leaf, w.to(dtype), b.to(dtype), relu, False)
        return torch.autograd.grad(y, leaf, grad.to(dtype))[0]

    assert_close(f"dx of {shape}", dx, plain(torch.float64), plain(torch.float32))
    trained = ops.conv3x3(x, w.requires_grad_(), b, relu=relu, backend="cpu")
    assert torch.equal(torch.autograd.grad(trained, (x, w), grad)[0], dx)


def test_threads_and_a_bias_alone():
    x, w, b, grad = _tensors((2, 3, 64, 37, 21))
    x, b = x.requires_grad_(), b.requires_grad_()
    y = ops.conv3x3(x, w, b, relu=True, backend="cpu")
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(torch.autograd.grad(y, (x, b), grad, retain_graph=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(dx, found[0][0]) for dx, _ in found)
    db = torch.where(y > 0, grad, 0).double().sum((0, 2, 3))
    torch.testing.assert_close(found[0][1].double(), db, rtol=1e-5, atol=1e-5)


def test_a_nan_lets_its_gradient_pass():
    """As torch's ReLU: the mask is not y <= 0. A NaN in the gradient behind it stays away."""
    x, w, b, grad = _tensors((1, 3, 64, 8, 8))
    x[0, 0, 4, 4] = float("nan")
    x = x.requires_grad_()
    y = ops.conv3x3(x, w, b, relu=True, backend="cpu")
    grad = torch.where(y == 0, float("nan"), grad)
    (dx,) = torch.autograd.grad(y, x, grad)
    plain = x.detach().requires_grad_()
    (wanted,) = torch.autograd.grad(reference.conv3x3(plain, w, b, True, False), plain, grad)
    torch.testing.assert_close(dx, wanted, rtol=1e-4, atol=1e-4)
    assert dx.isfinite().all()


_PROGRAM = """
import sys, torch
from tests.native import test_image_dgrad as tests
from vggfast.backends import native
assert native.module().build_config()["cpu_isa"] == sys.argv[1]
torch.manual_seed(0)
for shape in tests.SHAPES:
    for relu in (False, True):
        tests.test_of_frozen_weights(shape, relu)
tests.test_a_nan_lets_its_gradient_pass()
"""


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
def test_every_instruction_set(isa):
    """That of this CPU is tested above."""
    env = {**os.environ, "VGGFAST_CPU_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _PROGRAM, isa]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if "this CPU lacks" in done.stderr:
        pytest.skip(f"this CPU lacks {isa}")
    assert done.returncode == 0, done.stderr
