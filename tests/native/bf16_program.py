"""Run as a program: every bfloat16 kernel of one instruction set against float64.

Prints the largest error in units of what docs/numerics.md allows. Its own process, because the
instruction set is chosen once.
"""

from __future__ import annotations

import itertools
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast import ops, reference
from vggfast.backends import native

# (N, C_in, C_out, H, W): odd, edge and narrow maps, channels around a line of 32, whole images in
# one task, more than one task.
SHAPES = [
    (1, 1, 1, 1, 1), (2, 3, 64, 16, 16), (1, 2, 33, 7, 17), (3, 5, 7, 2, 3), (2, 31, 35, 9, 5),
    (1, 32, 70, 7, 7), (5, 33, 32, 2, 2), (1, 16, 16, 1, 17), (1, 16, 8, 17, 1),
    (4, 64, 96, 14, 14), (2, 3, 20, 3, 40), (1, 130, 16, 5, 6),
]  # fmt: skip
# (M, K, F_out)
PRODUCTS = [(1, 33, 5), (11, 64, 9), (8, 100, 35), (3, 1, 1), (12, 2100, 64), (9, 96, 33)]


def allowed(y: Tensor, exact: Tensor, baseline: Tensor) -> float:
    """The error of y as a part of what is allowed (tests/tolerance.py)."""
    ours, torchs = reference.errors(y, exact).rel, reference.errors(baseline, exact).rel
    return ours / (2 * torchs + 2 * torch.finfo(y.dtype).eps)


def convolutions() -> float:
    worst = 0.0
    for (n, c_in, c_out, h, w), relu, pool in itertools.product(SHAPES, (0, 1), (0, 1)):
        if pool and min(h, w) < 2:
            continue
        x, b = torch.randn(n, c_in, h, w).bfloat16(), torch.randn(c_out).bfloat16()
        weight = (torch.randn(c_out, c_in, 3, 3) * (2 / (9 * c_in)) ** 0.5).bfloat16()
        y = ops.conv3x3(x, weight, b, relu=bool(relu), pool=bool(pool), backend="cpu")
        leaves = [t.double() for t in (x, weight, b)]
        exact = reference.conv3x3(*leaves, bool(relu), bool(pool))
        plain = reference.conv3x3(x, weight, b, bool(relu), bool(pool))
        worst = max(worst, allowed(y, exact, plain))
    return worst


def products() -> float:
    worst = 0.0
    for (m, k, o), relu in itertools.product(PRODUCTS, (False, True)):
        x, w, b = (torch.randn(size).bfloat16() for size in ((m, k), (o, k), (o,)))
        y = ops.linear(x, w, b, relu=relu, backend="cpu")
        exact = F.linear(x.double(), w.double(), b.double())
        plain = F.linear(x, w, b)
        exact, plain = (t.relu() if relu else t for t in (exact, plain))
        worst = max(worst, allowed(y, exact, plain))
    return worst


def pools() -> float:
    """0 where value, winner and gradient are torch's for windows of equal values, else infinity."""
    for n, c, h, w in [(1, 1, 2, 2), (2, 67, 5, 7), (1, 130, 4, 3)]:
        x = torch.randint(-2, 3, (n, c, h, w)).bfloat16().requires_grad_()
        y, plain = ops.maxpool2x2(x, backend="cpu"), F.max_pool2d(x, 2)
        grad = torch.randn(y.shape).bfloat16()
        got, want = torch.autograd.grad(y, x, grad), torch.autograd.grad(plain, x, grad)
        if not (torch.equal(y, plain) and torch.equal(*got, *want)):
            return float("inf")
    return 0.0


if __name__ == "__main__":
    assert native.module().build_config()["bf16_isa"] == sys.argv[1]
    torch.manual_seed(0)
    with torch.no_grad():
        worst = max(convolutions(), products())
    print(max(worst, pools()))
