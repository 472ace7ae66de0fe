"""The extension itself: every instruction set of this CPU, threads, memory safety."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from vggfast import ops
from vggfast.backends import native
from vggfast.backends.cpu_conv import ERROR

ISAS = ("scalar", "avx2", "avx512", "amx")
_PROGRAM = """
import os, sys, torch
from vggfast import ops, reference
from vggfast.backends import cpu_conv, native
assert native.module().build_config()["cpu_isa"] == sys.argv[1]
torch.manual_seed(0)
shapes = [(2, 3, 64, 16, 20), (1, 70, 37, 9, 15), (3, 33, 64, 4, 3), (1, 64, 96, 29, 28)]
def convolutions():
    worst = 0.0
    for (n, c_in, c_out, h, w), pool in [(s, p) for s in shapes for p in (False, True)]:
        leaves = [torch.randn(n, c_in, h, w), torch.randn(c_out, c_in, 3, 3), torch.randn(c_out)]
        leaves = [t.requires_grad_() for t in leaves]
        wide = [t.detach().double().requires_grad_() for t in leaves]
        y = ops.conv3x3(*leaves, relu=True, pool=pool, backend="cpu")
        exact = reference.conv3x3(*wide, True, pool)
        grad = torch.randn(y.shape)
        z = reference.conv3x3(*(t.detach() for t in wide), False, False)
        grad = reference.clear_gradient(grad, z, pool)
        got = [y, *torch.autograd.grad(y, leaves, grad)]
        want = [exact, *torch.autograd.grad(exact, wide, grad.double())]
        worst = max([worst, *(reference.errors(a, b).rel for a, b in zip(got, want))])
    return worst
for algorithm in cpu_conv.here():
    os.environ["VGGFAST_CPU_CONV"] = algorithm
    print(algorithm, convolutions())
worst = 0.0
for m, k, o in [(1, 33, 5), (11, 64, 9), (8, 100, 3)]:
    leaves = [torch.randn(m, k), torch.randn(o, k), torch.randn(o)]
    leaves = [t.requires_grad_() for t in leaves]
    wide = [t.detach().double().requires_grad_() for t in leaves]
    y, exact = ops.linear(*leaves, backend="cpu"), reference.linear(*wide)
    grad = torch.randn(y.shape)
    got = [y, *torch.autograd.grad(y, leaves, grad)]
    want = [exact, *torch.autograd.grad(exact, wide, grad.double())]
    worst = max([worst, *(reference.errors(a, b).rel for a, b in zip(got, want))])
print("linear", worst)
for m, k, o in [(1, 33, 5), (2, 1, 4), (3, 64, 9), (8, 100, 3), (20, 2100, 7), (5, 31, 1)]:
    x, w, b = torch.randn(m, k), torch.randn(o, k).bfloat16(), torch.randn(o)
    y = ops.linear(x, w, b, relu=True, backend="cpu")
    assert torch.equal(y, ops.linear(x, w.float(), b, relu=True, backend="cpu")), (m, k, o)
w[0, 17], x[2, 3] = float("inf"), float("nan")
y, z = ops.linear(x, w, backend="cpu"), torch.nn.functional.linear(x, w.float())
torch.testing.assert_close(y, z, rtol=1e-5, atol=1e-5, equal_nan=True)
"""


def _run(isa: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "VGGFAST_CPU_ISA": isa}
    command = [sys.executable, *(arguments or ("-c", _PROGRAM, isa))]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set(isa):
    done = _run(isa)
    if "this CPU lacks" in done.stderr:
        pytest.skip(f"this CPU lacks {isa}")
    assert done.returncode == 0, done.stderr
    found = {name: float(worst) for name, worst in map(str.split, done.stdout.splitlines())}
    # Sums of at most 288 products at a time in float32 (csrc/cpu/gemm_tile.inc): eps is 1.2e-7.
    assert found.pop("linear") < 6e-7
    assert set(found) == {n for n in ERROR if isa == "amx" or not n.endswith("_amx")}
    for name, worst in found.items():
        assert worst < 6e-7 + ERROR[name], name


@pytest.mark.parametrize("isa", ISAS)
def test_layouts_on_the_other_instruction_sets(isa):
    if isa == native.module().build_config()["cpu_isa"]:
        pytest.skip("test_layouts.py runs in this process")
    tests = str(Path(__file__).with_name("test_layouts.py"))
    chosen = "inside or 16 or size or finite"
    done = _run(isa, "-m", "pytest", "-qx", "-p", "no:cacheprovider", "-k", chosen, tests)
    if "this CPU lacks" in done.stdout:
        pytest.skip(f"this CPU lacks {isa}")
    assert done.returncode == 0, done.stdout


def test_an_unknown_instruction_set_is_an_error():
    done = _run("sse9")
    assert done.returncode != 0
    assert (
        "VGGFAST_CPU_ISA: allowed are amx, avx512bf16, avx512, avx2 (on x86-64) and scalar"
        in done.stderr
    )


def test_build_config_says_what_was_built():
    config = native.module().build_config()
    assert config["cpu_isa"] in ISAS
    assert config["bf16_isa"] in ("amx", "avx512bf16", "scalar", None)
    assert (config["bf16_isa"] is None) == (config["bf16_why_not"] is not None)
    assert set(config) == {
        "cpu_isa", "cpu_splits", "bf16_isa", "bf16_why_not", "openmp", "cuda", "cuda_targets",
        "cuda_emulated", "compiler",
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads(threads):
    """More threads than work, too. The forward pass and dgrad do not depend on their number."""
    x, w = (
        torch.randn(1, 40, 6, 6, requires_grad=True),
        torch.randn(70, 40, 3, 3, requires_grad=True),
    )
    before = torch.get_num_threads()
    want = ops.conv3x3(x, w, relu=True, backend="cpu")
    grads = torch.autograd.grad(want.sum(), (x, w))
    try:
        torch.set_num_threads(threads)
        y = ops.conv3x3(x, w, relu=True, backend="cpu")
        dx, dw = torch.autograd.grad(y.sum(), (x, w))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(y, want)
    assert torch.equal(dx, grads[0])
    torch.testing.assert_close(dw, grads[1], rtol=1e-5, atol=1e-5)


def test_the_gil_is_released():
    """Another Python thread makes progress while one convolution runs."""
    x, w = torch.randn(4, 128, 64, 64), torch.randn(128, 128, 3, 3)
    ticks, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            ticks[0] += 1
            time.sleep(0.0005)

    counter = threading.Thread(target=count)
    counter.start()
    try:
        while ticks[0] == 0:
            time.sleep(0.001)
        before = ticks[0]
        ops.conv3x3(x, w, backend="cpu")
        during = ticks[0] - before
    finally:
        stop.set()
        counter.join()
    assert during > 1


def test_torch_and_the_extension_share_one_openmp_runtime():
    """Two pools of spinning threads would fight for the cores."""
    code = (
        "import torch\nfrom vggfast import ops\n"
        "ops.conv3x3(torch.randn(1, 8, 32, 32), torch.randn(8, 8, 3, 3), backend='cpu')\n"
        "torch.randn(512, 512) @ torch.randn(512, 512)\n"
        "print(len({l.split()[-1] for l in open('/proc/self/maps') if 'gomp' in l}))"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("only Linux lists the loaded libraries in /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("conv3x3", (0, 0, 0, 0, 0, 1, 1, 1, 1, 1, False, False, 1)),
        ("conv3x3", (1, 1, 0, 1, 0, -1, 1, 1, 1, 1, False, False, 1)),
        ("conv3x3", (1, 1, 0, 1, 0, 1, 1, 1, 1, 1, False, False, 0)),
        ("maxpool2x2", (1, 1, 0, 1, 1, 1, 1, 1)),
        ("conv3x3_wgrad", (1, 1, 1, 0, 1, 1, 1, 1, 1)),
        ("linear", (1, 0, 0, 1, 1, 1, 1, False, 1)),
        ("linear_bf16_weights", (1, 0, 0, 1, 1, 1, 1, False, 1)),
        ("linear_bf16_weights", (1, 1, 0, 1, 1, 0, 1, False, 1)),
        ("linear_dgrad", (1, 1, 1, 0, 1, 1, 1)),
        ("linear_wgrad", (1, 1, 1, 1, 1, 1, 0)),
    ],
)
def test_memory_safety_is_checked_again(name, arguments):
    with pytest.raises(ValueError, match=r"null|out of range|at least"):
        getattr(native.module(), name)(*arguments)
