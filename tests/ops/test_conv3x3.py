"""conv3x3 on every backend of this machine: result and gradients against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.convolution import check, force_algorithm
from tests.tolerance import assert_close
from vggfast import backends, ops, reference
from vggfast.backends import cpu_conv
from vggfast.configs import conv_layers

BACKENDS = ("eager", "cpu")
ALGORITHMS = tuple(cpu_conv.ALGORITHMS)  # of the cpu backend
# (N, C_in, C_out, H, W): odd, edge and narrow maps, channels that fill no tile.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 64, 16, 16),
    (1, 64, 64, 17, 23),
    (3, 5, 7, 2, 3),
    (2, 33, 35, 9, 5),
    (1, 130, 70, 7, 7),
    (4, 32, 32, 2, 2),
    (1, 8, 16, 1, 40),
    (1, 16, 8, 40, 1),
    (2, 40, 96, 14, 14),
]


def _run(shape, relu, pool, bias, backend, seed=0):
    n, c_in, c_out, h, w = shape
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, c_in, h, w, generator=g)
    weight = torch.randn(c_out, c_in, 3, 3, generator=g) * (2 / (9 * c_in)) ** 0.5
    args = [x, weight] + ([torch.randn(c_out, generator=g)] if bias else [])
    return check(args, relu, pool, backend)


@pytest.fixture
def algorithm(request, monkeypatch):
    """Forces an algorithm of the cpu backend."""
    force_algorithm(request.param, monkeypatch)
    return request.param


def _all_forms(shape, backend):
    for relu in (False, True):
        for pool in (False, True)[: 1 + (min(shape[3:]) >= 2)]:  # a pool needs a 2x2 window
            for bias in (False, True):
                _run(shape, relu, pool, bias, backend)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_and_gradients_of_eager(shape):
    _all_forms(shape, "eager")


@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_result_and_gradients(shape, algorithm):
    _all_forms(shape, "cpu")


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS[1:]], indirect=True)
@pytest.mark.parametrize("layer", conv_layers("D", 28), ids=lambda layer: layer.name)
def test_layers_of_the_network(layer, algorithm):
    """Real channel counts of VGG-D, on maps of a 28-pixel image."""
    if layer.op == "conv3x3":
        pool = layer.pool and min(layer.h, layer.w) >= 2
        _run((2, layer.c_in, layer.c_out, layer.h, layer.w), True, pool, True, None)


@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # it stays the same
)
@given(
    shape=st.tuples(
        st.integers(1, 3), st.integers(1, 40), st.integers(1, 40), st.integers(2, 12),
        st.integers(2, 40),
    ),
    relu=st.booleans(),
    pool=st.booleans(),
)  # fmt: skip
def test_any_shape(algorithm, shape, relu, pool):
    _run(shape, relu, pool, True, "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_images(backend):
    x = torch.empty(0, 3, 8, 8, requires_grad=True)
    w = torch.ones(4, 3, 3, 3, requires_grad=True)
    y = ops.conv3x3(x, w, relu=True, pool=True, backend=backend)
    assert y.shape == (0, 4, 4, 4)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert torch.equal(w.grad, torch.zeros_like(w))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_passes_relu_and_pool(backend):
    x = torch.randn(1, 3, 6, 6)
    x[0, 1, 2, 3] = float("nan")
    w = torch.randn(4, 3, 3, 3)
    y = ops.conv3x3(x, w, relu=True, pool=True, backend=backend)
    plain = reference.conv3x3(x, w, None, True, True)
    assert torch.equal(y.isnan(), plain.isnan())
    assert y.isnan().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_and_zeros_take_torchs_gradient(backend):
    """Integers: windows full of equal values, and outputs that are exactly zero at the ReLU."""
    x = torch.randint(-1, 2, (2, 2, 8, 8)).float().requires_grad_()
    w = torch.randint(-1, 2, (5, 2, 3, 3)).float().requires_grad_()
    y = ops.conv3x3(x, w, relu=True, pool=True, backend=backend)
    plain = reference.conv3x3(x, w, None, True, True)
    grad = torch.randint(-3, 4, y.shape).float()
    assert torch.equal(y, plain)
    for got, want in zip(
        torch.autograd.grad(y, (x, w), grad), torch.autograd.grad(plain, (x, w), grad), strict=True
    ):
        assert torch.equal(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_strides_do_not_matter(backend):
    x = torch.randn(2, 16, 9, 9)
    w = torch.randn(8, 16, 3, 3)
    want = ops.conv3x3(x, w, backend=backend)
    for view in (
        x.to(memory_format=torch.channels_last),
        torch.stack([x, x], 1)[:, 0],
        x.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        y = ops.conv3x3(view, w.to(memory_format=torch.channels_last), backend=backend)
        assert torch.equal(y, want)
        assert y.is_contiguous(memory_format=torch.channels_last)


def test_repeats_exactly():
    """Bit-identical from run to run, wgrad's split sums included."""
    shape = (3, 48, 80, 20, 22)
    first = _run(shape, True, True, True, "cpu")
    for _ in range(3):
        for a, b in zip(first, _run(shape, True, True, True, "cpu"), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("algorithm", ALGORITHMS, indirect=True)
@pytest.mark.parametrize("needed", [0, 1, 2])
def test_one_gradient_at_a_time(needed, algorithm):
    """Frozen weights or a frozen input: what is not asked for is not computed, the rest is."""
    tensors = [torch.randn(2, 5, 6, 6), torch.randn(9, 5, 3, 3), torch.randn(9)]
    tensors[needed].requires_grad_()
    wide = [t.detach().double() for t in tensors]
    wide[needed].requires_grad_()
    y = ops.conv3x3(*tensors, relu=True, pool=True, backend="cpu")
    plain, exact = reference.conv3x3(*tensors, True, True), reference.conv3x3(*wide, True, True)
    with torch.no_grad():
        z = reference.conv3x3(*wide, False, False)
    grad = reference.clear_gradient(torch.randn(y.shape), z, True)
    (got,) = torch.autograd.grad(y, tensors[needed], grad)
    (theirs,) = torch.autograd.grad(plain, tensors[needed], grad)
    (right,) = torch.autograd.grad(exact, wide[needed], grad.double())
    name = ("dx", "dw", "db")[needed]
    extra = backends.get("cpu").conv3x3_error(name, (2, 5, 6, 6), 9, True)
    assert_close(name, got, right, theirs, algorithm=extra)
