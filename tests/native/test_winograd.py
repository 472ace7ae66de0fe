"""Winograd on the CPU: its stated error on hard inputs, non-finite values, and the kept weights."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys

import pytest
import torch

from tests.convolution import force_algorithm
from vggfast import ops, reference
from vggfast.backends import cpu, cpu_conv, cpu_memory, cpu_weights
from vggfast.backends.cpu_conv import WORST, Cost, Entry, choose, choose_wgrad
from vggfast.errors import InputError


@pytest.fixture(params=[name for name in cpu_conv.ALGORITHMS if name != "direct"])
def algorithm(request, monkeypatch):
    force_algorithm(request.param, monkeypatch)
    return request.param


@pytest.fixture(autouse=True)
def _no_kept_weights():
    cpu_weights.clear()
    yield
    cpu_weights.clear()


def _wide_range(x):
    return x * 10.0 ** torch.randint(-6, 7, x.shape)


def _one_hot(x):
    y = torch.zeros_like(x)
    y[0, 3, 7, 8] = 1e6
    return y


ADVERSARIAL = {
    "wide range": _wide_range,
    "all equal": lambda x: torch.full_like(x, 3.0),
    "one hot": _one_hot,
    "checkerboard": lambda x: x.abs() * (-1.0) ** torch.arange(x.shape[-1]),
    "tiny": lambda x: x * 1e-30,
    "near the smallest": lambda x: x * 1e-36,
    "large, of tiny weights": lambda x: x * 1e30,
    "products near the smallest": lambda x: x * 1e-18,
}
WEIGHTS = {"large, of tiny weights": 1e-36, "products near the smallest": 1e-18}  # else 1


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("c_out", [64, 48])
@pytest.mark.parametrize("name", cpu_conv.ALGORITHMS)
def test_a_large_map_is_written_past_the_caches_and_right(name, c_out, pool, monkeypatch):
    """From 4 MB on other stores write it; the same images one by one are below that."""
    force_algorithm(name, monkeypatch)
    torch.manual_seed(0)
    side = 119 if pool else 61
    x = torch.randn(8, 16, side, side).to(memory_format=torch.channels_last)
    w, b = torch.randn(c_out, 16, 3, 3), torch.randn(c_out)
    whole = ops.conv3x3(x, w, b, relu=True, pool=pool, backend="cpu")
    assert whole.numel() >= 1 << 20 > whole[0].numel()
    for image, y in zip(x, whole, strict=True):
        torch.testing.assert_close(
            y,
            ops.conv3x3(image[None], w, b, relu=True, pool=pool, backend="cpu")[0],
            rtol=0,
            atol=0,
        )


VGG_LAYERS = [
    (1, 64, 64, 224, 224),
    (1, 128, 256, 56, 56),
    (1, 512, 512, 28, 28),
    (2, 512, 512, 14, 14),
]


@pytest.mark.parametrize(
    "size",
    [(2, 32, 48, 19, 26), *(pytest.param(s, marks=pytest.mark.long) for s in VGG_LAYERS)],
    ids=str,
)
@pytest.mark.parametrize("what", ADVERSARIAL)
def test_stated_bound_on_hard_inputs(what, size, algorithm):
    """No element is off by more than WORST u times the largest input times the sum of |w|.

    The gradients are transposes of the same algorithm: for dx the input is the gradient, for dw
    the gradient stands for w. AMX has no numbers below 2^-126: docs/numerics.md says what is lost.
    """
    n, c_in, c_out, h, width = size
    hard = ADVERSARIAL[what]
    x = hard(torch.randn(n, c_in, h, width))
    w = torch.randn(c_out, c_in, 3, 3) * WEIGHTS.get(what, 1.0)
    grad = torch.randn(n, c_out, h, width) * WEIGHTS.get(what, 1.0)
    hard_grad = hard(grad)

    def results(function, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in (x, w)]
        y = function(*leaves)
        (dx,) = torch.autograd.grad(y, leaves[0], hard_grad.to(dtype), retain_graph=True)
        (dw,) = torch.autograd.grad(y, leaves[1], grad.to(dtype))
        return y.detach(), dx, dw

    got = results(lambda x, w: ops.conv3x3(x, w, backend="cpu"), torch.float32)
    exact = results(lambda x, w: reference.conv3x3(x, w, None, False, False), torch.float64)
    u = torch.finfo(torch.float32).eps / 2
    # Of each number and of each product; without AMX a subnormal's own rounding.
    lost, product = (2.0**-101, 2.0**-123) if cpu_conv.on_amx(algorithm) else (0.0, 2.0**-149)
    largest, largest_grad = x.abs().max() + lost, hard_grad.abs().max() + lost

    def scale(largest, terms, dims, count):
        sums = (terms.double().abs() + lost).sum(dims)
        return largest * sums + sums.new_tensor(count * product / u)

    scales = (
        scale(largest, w, (1, 2, 3), c_in).view(1, -1, 1, 1),
        scale(largest_grad, w, (0, 2, 3), c_out).view(1, -1, 1, 1),
        scale(largest, grad, (0, 2, 3), n * h * width).view(-1, 1, 1, 1),
    )
    for name, a, b, scale in zip(("y", "dx", "dw"), got, exact, scales, strict=True):
        assert ((a - b).abs() <= WORST[algorithm] * u * scale).all(), name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("relu", [False, True])
def test_what_is_not_finite_spreads_no_further_than_in_torch(value, relu, algorithm):
    """A transform would spread it over a whole tile, and overflow where the result does not."""
    x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3) * 0.1
    x[0, 5, 6, 7] = value
    y = ops.conv3x3(x, w, relu=relu, backend="cpu")
    plain = reference.conv3x3(x, w, None, relu, False)
    torch.testing.assert_close(y, plain, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_of_a_gradient_that_is_not_finite(pool, algorithm):
    leaves = torch.randn(1, 16, 12, 13).requires_grad_(), torch.randn(16, 16, 3, 3).requires_grad_()
    y = ops.conv3x3(*leaves, pool=pool, backend="cpu")
    grad = torch.randn(y.shape)
    grad[0, 1, 2, 3] = float("inf")
    got = torch.autograd.grad(y, leaves, grad)
    plain = reference.conv3x3(*leaves, None, False, pool)
    for a, b in zip(got, torch.autograd.grad(plain, leaves, grad), strict=True):
        assert b.isinf().any()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, equal_nan=True)


def test_a_nan_lets_the_gradient_through_relu_and_pool(algorithm):
    x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
    x[0, 5, 6, 7] = float("nan")
    leaves = x.requires_grad_(), w.requires_grad_()
    y = ops.conv3x3(*leaves, relu=True, pool=True, backend="cpu")
    plain = reference.conv3x3(*leaves, None, True, True)
    grad = torch.where(plain.isnan(), 1.0, 0.0)
    got, want = (torch.autograd.grad(t, leaves, grad) for t in (y, plain))
    assert want[0].abs().sum() > 0
    assert want[1].isnan().any()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, equal_nan=True)


_SAME_AS_FROM_DZ = """
import itertools, sys, torch
from vggfast.backends import native
lib = native.module()
assert lib.build_config()["cpu_isa"] == sys.argv[1]
torch.manual_seed(0)
p = torch.Tensor.data_ptr
shapes = [(2, 9, 13, 19, 37), (1, 2, 3, 16, 1), (1, 12, 12, 3, 50), (2, 7, 16, 33, 66)]
shapes.append((1, 14, 15, 5, 263))
forms = [(2, False), (4, False), (6, False)]
if lib.build_config()["cpu_splits"]:
    forms += [(2, True), (4, True), (6, True)]
for (n, h, w, c_in, c_out), form, relu in itertools.product(shapes, forms, (False, True)):
    sizes = n, h, w, c_in, c_out
    x, weight = torch.randn(n, h, w, c_in), torch.randn(c_out, c_in, 3, 3)
    grad, y = torch.randn(2, n, h // 2, w // 2, c_out).unbind()
    y[torch.rand(y.shape) < 0.1] = 0.0
    y[torch.rand(y.shape) < 0.1] = float("nan")
    argmax = torch.randint(256, (n, h // 2, w // 2, (c_out + 3) // 4), dtype=torch.uint8)
    dz = torch.full((n, h, w, c_out), float("nan"))
    source = p(grad), p(y) if relu else 0, p(argmax)
    db = torch.empty(2, c_out)
    lib.conv3x3_dz(*source, p(dz), p(db[0]), n, h, w, c_out, 2)
    lib.conv3x3_dz(*source, 0, p(db[1]), n, h, w, c_out, 2)
    dx = torch.full((2, n, h, w, c_in), float("nan"))
    dw = torch.full((2, *weight.shape), float("nan"))
    for i, given in enumerate([(p(dz), 0, 0), source]):
        lib.conv3x3_dgrad_winograd(*given, p(weight), 0, p(dx[i]), *sizes, *form, 28, 64, 2)
        lib.conv3x3_wgrad_winograd(p(x), *given, p(dw[i]), *sizes, *form, 448, 2)
    kept = (y <= 0).logical_not() if relu else torch.ones_like(y)
    code = argmax.repeat_interleave(4, -1)[..., :c_out] >> 2 * (torch.arange(c_out) % 4) & 3
    want = torch.zeros_like(dz)
    for k in range(4):
        window = want[:, k // 2 : h // 2 * 2 : 2, k % 2 : w // 2 * 2 : 2]
        window.copy_(torch.where((code == k) & kept.bool(), grad, 0))
    assert torch.equal(dz, want)
    for pair in (dx, dw, db):
        assert torch.equal(*pair), (sizes, form, relu)
"""


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512", "amx"])
def test_a_pooled_gradient_gives_what_its_dz_gives(isa):
    """Bit for bit: odd maps, channels that fill no vector and no byte of codes, zeros and NaNs."""
    done = subprocess.run(
        [sys.executable, "-c", _SAME_AS_FROM_DZ, isa], capture_output=True, text=True, check=False,
        env={**os.environ, "VGGFAST_CPU_ISA": isa},
    )  # fmt: skip
    if "this CPU lacks" in done.stderr:
        pytest.skip(f"this CPU lacks {isa}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("needed", ["x", "w"])
def test_a_pooled_layer_makes_no_dz(needed, algorithm, monkeypatch):
    made = []
    monkeypatch.setattr(
        cpu, "empty_map", lambda *size: made.append(size) or cpu_memory.empty_map(*size)
    )
    x, w = torch.randn(1, 16, 12, 12), torch.randn(24, 16, 3, 3)
    leaf = (x if needed == "x" else w).requires_grad_()
    y = ops.conv3x3(x, w, relu=True, pool=True, backend="cpu")
    made.clear()
    torch.autograd.grad(y.sum(), leaf)
    assert made == ([(1, 16, 12, 12)] if needed == "x" else [])


@pytest.mark.long
@pytest.mark.parametrize("channels", [32, 96])  # in parts, and all threads on one
def test_the_error_of_wgrad_does_not_grow_with_the_tiles(channels, algorithm):
    x = torch.randn(16, channels, 112, 112)
    w = torch.randn(channels, channels, 3, 3, requires_grad=True)
    grad = torch.randn(16, channels, 112, 112)
    (dw,) = torch.autograd.grad(ops.conv3x3(x, w, backend="cpu"), w, grad)
    few = torch.nn.grad.conv2d_weight(
        x[:, :4].double(), (channels, 4, 3, 3), grad.double(), padding=1
    )
    assert reference.errors(dw[:, :4], few).rel < cpu_conv.ERROR[algorithm]


@pytest.mark.parametrize("size", [30, 70])  # in one part, and in several
def test_wgrad_does_not_depend_on_the_threads(size, algorithm):
    x, w = torch.randn(3, 40, size, size), torch.randn(24, 40, 3, 3, requires_grad=True)
    grad = torch.randn(3, 24, size, size)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found += torch.autograd.grad(ops.conv3x3(x, w, backend="cpu"), w, grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def _same(x, w):
    got = ops.conv3x3(x, w, backend="cpu")
    want = reference.conv3x3(x, w, None, False, False)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-3)
    return got


def test_weights_are_kept_from_the_second_call_on(algorithm):
    x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
    first = _same(x, w)
    assert cpu_weights.kept_bytes() == 0
    assert torch.equal(_same(x, w), first)
    assert cpu_weights.kept_bytes() > 0
    assert torch.equal(_same(x, w), first)


LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("change", ["in place", "behind torch's back", "one value in place"])
def test_changed_weights_are_seen(change, layout, algorithm):
    x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
    w = torch.nn.Parameter(w.to(memory_format=layout))
    for _ in range(4):
        _same(x, w)
    assert cpu_weights.kept_bytes() > w.nbytes * (layout is torch.channels_last)
    with torch.no_grad():
        if change == "in place":
            w.mul_(2)
        elif change == "one value in place":
            w[3, 4, 1, 1] += 1
        else:
            w.data.mul_(2)
    _same(x, w)
    assert cpu_weights.kept_bytes() == 0


def test_a_new_tensor_in_the_old_ones_place_is_not_mistaken_for_it(algorithm):
    x = torch.randn(1, 16, 12, 12)
    for seed in range(6):
        w = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(seed))
        _same(x, w)
        _same(x, w)
        del w


def test_kept_weights_go_with_the_tensor(algorithm):
    x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
    _same(x, w)
    _same(x, w)
    del w
    gc.collect()
    assert cpu_weights.kept_bytes() == 0


def test_inference_tensors_have_no_version(algorithm):
    with torch.inference_mode():
        x, w = torch.randn(1, 16, 12, 12), torch.randn(16, 16, 3, 3)
        for _ in range(3):
            _same(x, w)
    assert cpu_weights.kept_bytes() == 0


def test_an_algorithm_of_another_cpu_is_an_error(monkeypatch):
    if "f4_amx" in cpu_conv.here():
        pytest.skip("this CPU has AMX")
    monkeypatch.setenv("VGGFAST_CPU_CONV", "f4_amx")
    with pytest.raises(InputError, match="VGGFAST_CPU_CONV: got 'f4_amx', allowed are"):
        ops.conv3x3(torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3), backend="cpu")


def test_an_unknown_algorithm_is_an_error(monkeypatch):
    monkeypatch.setenv("VGGFAST_CPU_CONV", "fft")
    with pytest.raises(
        InputError, match=r"VGGFAST_CPU_CONV: got 'fft', .* auto, direct, f2, f4, f6"
    ):
        ops.conv3x3(torch.randn(1, 16, 8, 8), torch.randn(16, 16, 3, 3), backend="cpu")


def test_the_choice_depends_on_the_shape():
    assert choose(1, 224, 224, 3, 64).name == "direct"
    assert choose(8, 224, 224, 64, 64).m >= 4
    assert choose(8, 28, 28, 512, 512).m >= 4
    assert choose(1, 1, 1, 512, 512).name in ("direct", "f2")


def test_the_choice_is_the_tables(monkeypatch):
    """Of two algorithms, the one that the nearest entry gives fewer seconds for so many tiles."""
    cheap, dear = Cost(0.0, 1e-6), Cost(1e-3, 1e-6)
    entries = [
        Entry(64, 64, {"direct": cheap, "f4": dear}),
        Entry(512, 512, {"direct": dear, "f4": cheap}),
    ]
    monkeypatch.setattr(cpu_conv, "table", lambda: {"fprop": entries, "wgrad": entries})
    cpu_conv.clear_cache()
    try:
        assert choose(1, 8, 8, 64, 64).name == "direct"  # 64 pixels against a fixed millisecond
        assert choose(8, 64, 64, 64, 64).name == "f4"  # 32768 pixels, 2048 tiles
        assert choose(1, 8, 8, 400, 600).name == "f4"
        assert choose_wgrad(1, 8, 8, 64, 96).name == "direct"
    finally:
        cpu_conv.clear_cache()


@pytest.mark.parametrize("isa", ["amx", "avx512", "avx2"])
def test_the_table_is_whole(isa):
    """Every pass and algorithm of every pair of VGG's channels has a cost that can be."""
    measured = json.loads(cpu_conv.TABLE.read_text())["isa"][isa]
    for op in ("fprop", "wgrad"):
        pairs = {(e["c_in"], e["c_out"]) for e in measured[op]}
        assert pairs >= {(64, 64), (64, 128), (128, 128), (256, 256), (256, 512), (512, 512)}
        for entry in measured[op]:
            for name in [a for a in cpu_conv.ALGORITHMS if isa == "amx" or not cpu_conv.on_amx(a)]:
                fixed, each = entry[name]
                assert 0 <= fixed < 0.1
                assert 0 < each < 1e-2
