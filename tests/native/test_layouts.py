"""Tensors as callers have them: of any strides, anywhere in memory, sharing it, of any size.

test_native.py runs what depends on it again for the other instruction sets.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import vggfast
from tests.convolution import check, force_algorithm
from tests.tolerance import assert_close
from vggfast import ops, reference

NAN = float("nan")


@pytest.fixture(params=["direct", "f4", "f6", "f4_amx"], autouse=True)
def algorithm(request, monkeypatch):
    force_algorithm(request.param, monkeypatch)
    return request.param


@pytest.fixture(autouse=True)
def _one_thread():
    """The maps are tiny: threads would wait for each other longer than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _inside(t: Tensor) -> Tensor:
    """``t`` in the middle of a larger tensor of NaN."""
    around = torch.full([size + 2 for size in t.shape], NAN)
    place = around[tuple(slice(1, -1) for _ in t.shape)]
    return place.copy_(t)


def _every_other(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, NAN)], -1)[..., 0]


def _transposed(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1)


def _offset(t: Tensor, floats: int) -> Tensor:
    """``t``, contiguous, so many floats after a cache line begins."""
    memory = torch.full((t.numel() + 64,), NAN)
    first = -memory.data_ptr() // 4 % 16 + floats
    return memory[first : first + t.numel()].view(t.shape).copy_(t)


def _channels_last(t: Tensor) -> Tensor:
    """The memory is channels_last, and begins between two cache lines."""
    if t.dim() != 4:
        return _offset(t, 1)
    return _offset(t.permute(0, 2, 3, 1).contiguous(), 1).permute(0, 3, 1, 2)


def _negated(t: Tensor) -> Tensor:
    """torch negates this lazily: its memory holds -t."""
    return torch.complex(torch.zeros_like(t), -t).conj().imag


LAYOUTS = {
    "nchw": lambda t: t,
    "channels_last, 4 bytes off": _channels_last,
    "4 bytes off": lambda t: _offset(t, 1),
    "16 bytes off": lambda t: _offset(t, 4),
    "inside another": _inside,
    "every other": _every_other,
    "transposed": _transposed,
    "lazily negated": _negated,
    "expanded": lambda t: t[:1].expand(t.shape),
    "expanded channels": lambda t: (
        t[:, :1].expand(t.shape) if t.dim() > 1 else t[:1].expand(len(t))
    ),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return LAYOUTS[request.param]


@pytest.mark.parametrize("pool", [False, True])
def test_conv3x3_of_any_layout(layout, pool):
    plain = [torch.randn(2, 20, 9, 11), torch.randn(35, 20, 3, 3), torch.randn(35)]
    args = [layout(t) for t in plain]
    grad = layout(torch.randn(2, 35, 4, 5) if pool else torch.randn(2, 35, 9, 11))
    got = check(args, False, pool, "cpu", grad)
    dense = check([t.clone(memory_format=torch.contiguous_format) for t in args], False, pool,
                  "cpu", grad.contiguous())  # fmt: skip
    assert all(map(torch.equal, got, dense))


def test_linear_of_any_layout(layout):
    args = [layout(t) for t in (torch.randn(3, 40), torch.randn(9, 40), torch.randn(9))]
    grad = layout(torch.randn(3, 9))
    found = []
    for function, dtype in (
        (lambda *a: ops.linear(*a, backend="cpu"), torch.float32),
        (reference.linear, torch.float64),
        (F.linear, torch.float32),
    ):
        leaves = [t.detach().to(dtype).requires_grad_() for t in args]
        y = function(*leaves)
        found.append([y, *torch.autograd.grad(y, leaves, grad.to(dtype))])
    for name, ours, exact, torchs in zip(("y", "dx", "dw", "db"), *found, strict=True):
        assert_close(name, ours, exact, torchs)


def test_maxpool2x2_of_any_layout(layout):
    x, grad = layout(torch.randn(2, 7, 9, 11)), layout(torch.randn(2, 7, 4, 5))
    leaf = x.detach().requires_grad_()
    y, want = ops.maxpool2x2(leaf, backend="cpu"), F.max_pool2d(leaf, 2)
    assert torch.equal(y, want)
    (got,), (right,) = (torch.autograd.grad(t, leaf, grad) for t in (y, want))
    assert torch.equal(got, right)


def test_what_is_kept_for_backward_may_come_back_in_another_layout():
    """Hooks that store it elsewhere need not keep its strides."""
    leaves = [torch.randn(2, 16, 10, 12), torch.randn(32, 16, 3, 3), torch.randn(32)]
    leaves = [t.requires_grad_() for t in leaves]

    def gradients():
        y = ops.conv3x3(*leaves, relu=True, pool=True, backend="cpu")
        return torch.autograd.grad(y, leaves, torch.linspace(-1, 1, y.numel()).view(y.shape))

    want = gradients()
    with torch.autograd.graph.saved_tensors_hooks(_transposed, lambda t: t):
        got = gradients()
    assert all(map(torch.equal, got, want))


def test_slices_of_one_parameter():
    """Weights that are parts of a larger tensor are told apart, and seen when they change."""
    x, whole = torch.randn(1, 16, 12, 12), torch.nn.Parameter(torch.randn(48, 16, 3, 3) / 12)
    for _ in range(3):
        for _ in range(3):  # transformed weights are kept from the second call on
            y = [ops.conv3x3(x, whole[i : i + 16], backend="cpu") for i in (0, 16, 32)]
        want = reference.conv3x3(x, whole, None, False, False)
        torch.testing.assert_close(torch.cat(y, 1), want, rtol=1e-4, atol=1e-4)
        (got,) = torch.autograd.grad(torch.cat(y, 1).square().sum(), whole)
        (right,) = torch.autograd.grad(want.square().sum(), whole)
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-2)
        with torch.no_grad():
            whole.mul_(-2)


@pytest.mark.parametrize("pool", [False, True])
def test_input_weights_and_gradient_in_one_storage(pool):
    c, size = 18, (2, 18, 8, 10)
    memory = torch.randn(2 * 18 * 80 + 18 * 18 * 9)
    x = memory[: 2 * c * 80].view(size)
    w = memory[-c * c * 9 :].view(c, c, 3, 3)
    grad = memory[7 : 7 + 2 * c * 20].view(2, c, 4, 5) if pool else x
    before = memory.clone()
    check([x, w, memory[5 : 5 + c]], False, pool, "cpu", grad)
    check([w, w], False, False, "cpu", w)  # 18 images of 3x3
    assert torch.equal(memory, before)


def test_conv3x3_of_every_small_size():
    for h in (1, 2, 3, 5, 8):
        for w in (1, 2, 3, 5, 8):
            c_in, c_out = 3 * h - 2, 5 * w - 4  # 1 to 22, 1 to 36
            args = [torch.randn(2, c_in, h, w), torch.randn(c_out, c_in, 3, 3), torch.randn(c_out)]
            check(args, True, False, "cpu")
            if min(h, w) >= 2:
                check(args, True, True, "cpu")


def test_a_network_of_no_images():
    model = vggfast.vgg("A", num_classes=3, crop=32, backend="cpu")
    y = model(torch.empty(0, 3, 32, 32))
    y.sum().backward()
    assert y.shape == (0, 3)
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())


def _both(args: list[Tensor], relu: bool, pool: bool, grad: Tensor) -> list[tuple[Tensor, Tensor]]:
    """y, dx, dw, db of ours and of torch."""
    found = []
    for function in (lambda *a: ops.conv3x3(*a, relu=relu, pool=pool, backend="cpu"),
                     lambda *a: reference.conv3x3(*a, relu, pool)):  # fmt: skip
        leaves = [t.clone().requires_grad_() for t in args]
        y = function(*leaves)
        found.append([y.detach(), *torch.autograd.grad(y, leaves, grad)])
    return list(zip(*found, strict=True))


def _same(ours: Tensor, torchs: Tensor) -> None:
    torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-3, equal_nan=True)


VALUES = [NAN, float("inf"), -float("inf")]
CORNER, MIDDLE = (0, 3, 0, 0), (0, 3, 4, 2)


def _clean(pool: bool) -> tuple[list[Tensor], Tensor]:
    args = [torch.randn(2, 20, 12, 10), torch.randn(16, 20, 3, 3), torch.randn(16)]
    return args, torch.randn(2, 16, 6, 5) if pool else torch.randn(2, 16, 12, 10)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("value", VALUES)
def test_what_is_not_finite_goes_where_torch_lets_it(value, pool):
    for where in (CORNER, MIDDLE, "b", "grad"):
        args, grad = _clean(pool)
        if where == "b":
            args[2][3] = value
        elif where == "grad":
            grad[MIDDLE] = value
        else:
            args[0][where] = value
        for ours, torchs in _both(args, True, pool, grad):
            _same(ours, torchs)


@pytest.mark.parametrize("value", VALUES)
def test_what_is_not_finite_also_meets_the_zeros_around_a_map(value):
    """docs/numerics.md: there it makes a NaN, where torch leaves out what is outside."""
    args, grad = _clean(False)
    args[1][3, 2, 0, 0] = value
    (y, torchs), (dx, torchs_dx), *_ = _both(args, False, False, grad)
    _same(y[..., 1:-1, 1:-1], torchs[..., 1:-1, 1:-1])
    _same(dx[..., 1:-1, 1:-1], torchs_dx[..., 1:-1, 1:-1])
    args, grad = _clean(False)
    grad[CORNER] = value
    y, dx, (dw, torchs_dw), db = _both(args, False, False, grad)
    for ours, theirs in (y, dx, db, *((dw[i], torchs_dw[i]) for i in range(16) if i != 3)):
        _same(ours, theirs)
    assert not dw[3][torchs_dw[3].isfinite().logical_not()].isfinite().any()


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("where", ["x", "w", "grad"])
def test_linear_gradients_of_what_is_not_finite(value, where):
    tensors = {"x": torch.randn(5, 51), "w": torch.randn(8, 51), "grad": torch.randn(5, 8)}
    tensors[where][3, 5] = value
    x, w, grad = tensors.values()
    found = []
    for backend in ("cpu", "eager"):
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        y = ops.linear(*leaves, relu=True, backend=backend)
        found.append([y, *torch.autograd.grad(y, leaves, grad)])
    for ours, torchs in zip(*found, strict=True):
        _same(ours, torchs)
