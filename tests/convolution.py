"""``conv3x3`` held to float64: the result and every gradient, for given tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close
from vggfast import ops, reference
from vggfast.backends import Call, cpu_conv, select

NAMES = ("y", "dx", "dw", "db")


def force_algorithm(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the cpu backend convolve by it; skips the test where this CPU's kernels lack it."""
    if name not in ("auto", *cpu_conv.here()):
        pytest.skip(f"this CPU has no {name}")
    monkeypatch.setenv("VGGFAST_CPU_CONV", name)


def check(
    args: list[Tensor],
    relu: bool,
    pool: bool,
    backend: str | None,
    grad: Tensor | None = None,
) -> list[Tensor]:
    """y, dx, dw and db (if there is a bias) of the backend, after they are found right.

    ``args`` are x, w and perhaps b, of any strides, which are kept. ``grad`` is the upstream
    gradient; by default a random one that is zero where rounding may decide where it goes.
    """
    (n, c_in, h, w), c_out = args[0].shape, args[1].shape[0]
    bias = [None] * (3 - len(args))
    if grad is None:
        z = reference.conv3x3(*(a.double() for a in args), *bias, False, False)
        size = (n, c_out, h // 2, w // 2) if pool else (n, c_out, h, w)
        generator = torch.Generator().manual_seed(h * w)
        grad = torch.randn(size, generator=generator)
        grad = reference.clear_gradient(grad, z, pool, relu)

    def result(function, dtype):
        leaves = [a.detach().to(dtype).requires_grad_() for a in args]
        y = function(*leaves, *bias)
        return [y, *torch.autograd.grad(y, leaves, grad.to(dtype))]

    def ours(x, w, b):
        return ops.conv3x3(x, w, b, relu=relu, pool=pool, backend=backend)

    def plain(x, w, b):
        return reference.conv3x3(x, w, b, relu, pool)

    dtype = args[0].dtype
    got, exact, torchs = result(ours, dtype), result(plain, torch.float64), result(plain, dtype)
    serves = select(Call("conv3x3", "cpu", dtype, c_in, c_out), backend)
    for name, a, b, c in zip(NAMES, got, exact, torchs, strict=False):
        assert a.dtype == dtype
        terms = grad.abs().sum((0, 2, 3)) if name == "db" else None
        extra = serves.conv3x3_error(name, (n, c_in, h, w), c_out, pool)
        sizes = f"{tuple(args[0].shape)} to {c_out} channels"
        assert_close(f"{name} of {sizes} relu={relu} pool={pool}", a, b, c, terms, extra)
    return got
