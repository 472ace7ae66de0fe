"""The first layer's kernels (at most three input channels) against float64, and their edges."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_cases import DTYPES, assert_close, double, maps, name, weights
from vggfast.kernels import ops
from vggfast.kernels.launch import first

from vggfast import reference
from vggfast.backends import argmax as packed
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()

# (N, C_in, C_out, H, W): one pixel, one row, one column; odd maps wider and higher than a box;
# outputs of more than one block, outputs that fill no 16 bytes, and images that share a box.
SIZES = (
    (1, 1, 8, 1, 1),
    (1, 3, 5, 1, 7),
    (2, 2, 16, 9, 1),
    (1, 3, 24, 5, 35),
    (1, 2, 72, 5, 33),
    (3, 1, 3, 7, 6),
    (3, 3, 8, 3, 3),
)
POOLED = tuple(s for s in SIZES if min(s[3:]) >= 2)


def check_forward(
    size: tuple[int, ...], relu: bool, pool: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """y with a ReLU and a bias, or without both, against float64."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=1)
    weight, bias = weights(c_out, c_in, dtype, device, seed=1)
    b = bias if relu else None
    y, codes = ops.conv3x3(x, weight, b, relu, pool, False)
    assert codes is None
    assert y.dtype == dtype
    assert y.permute(0, 2, 3, 1).is_contiguous()
    oracle = reference.conv3x3(x.double(), weight.double(), double(b), relu, pool)
    theirs, _ = EAGER.conv3x3(x, weight, b, relu, pool, False)
    assert_close(f"y, relu={relu}, pool={pool}", y, theirs, oracle, 9 * c_in)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=name)
def test_forward(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    check_forward(size, True, False, dtype, device)
    check_forward(size, False, False, dtype, device)
    if size in POOLED:
        check_forward(size, True, True, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", POOLED, ids=name)
def test_fused_pool_is_the_pool_of_the_map(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Values and argmax equal torch's pool of our unfused map, bit for bit; zeros tie."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=2)
    weight, bias = weights(c_out, c_in, dtype, device, seed=2)
    for relu in (True, False):
        whole, _ = ops.conv3x3(x, weight, bias, relu, False, False)
        y, codes = ops.conv3x3(x, weight, bias, relu, True, True)
        expected, indices = F.max_pool2d(whole, 2, return_indices=True)
        assert torch.equal(y, expected)
        assert codes is not None
        assert torch.equal(codes, packed.pack(indices, w))


def test_nan_stays_where_it_belongs(device: torch.device) -> None:
    """A NaN in x reaches its 3x3 neighbours and no pixel at the other end of a row or image."""
    x = maps((2, 3, 5, 6), torch.float32, device, seed=3)
    x[0, 1, 2, 5] = x[0, 0, 4, 0] = float("nan")  # ends of rows, of an image
    lost = F.max_pool2d(x.isnan().float(), 3, stride=1, padding=1).amax(1, keepdim=True) > 0
    weight, _ = weights(8, 3, torch.float32, device, seed=3)
    for relu in (True, False):
        whole, _ = ops.conv3x3(x, weight, None, relu, False, False)
        assert torch.equal(whole.isnan(), lost.expand_as(whole))
        y, codes = ops.conv3x3(x, weight, None, relu, True, True)
        expected, indices = F.max_pool2d(whole, 2, return_indices=True)
        assert torch.equal(y.nan_to_num(99), expected.nan_to_num(99))
        assert codes is not None
        assert torch.equal(codes, packed.pack(indices, 6))


def check_gradients(
    size: tuple[int, ...],
    relu: bool,
    pool: bool,
    wants_dx: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Against float64 through the same mask and argmax, beside torch's own."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=4)
    weight, bias = weights(c_out, c_in, dtype, device, seed=4)
    y, codes = EAGER.conv3x3(x, weight, bias, relu, pool, pool)
    grad = maps(tuple(y.shape), dtype, device, seed=5)
    mask = y if relu else None
    needs = (wants_dx, True, True)
    ours = ops.conv3x3_backward(grad, x, weight, mask, codes, needs)
    theirs = EAGER.conv3x3_backward(grad, x, weight, mask, codes, relu, pool, needs)
    oracle = EAGER.conv3x3_backward(
        grad.double(), x.double(), weight.double(), double(mask), codes, relu, pool, needs
    )
    terms = (9 * c_out, n * h * w, n * h * w)
    for what, a, b, c, k in zip(("dx", "dw", "db"), ours, theirs, oracle, terms, strict=True):
        if what == "dx" and not wants_dx:
            assert a is None
        else:
            assert_close(what, a, b, c, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=name)
def test_gradients(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    check_gradients(size, True, False, False, dtype, device)
    if size in POOLED:
        check_gradients(size, True, True, False, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", [False, True])
def test_gradients_with_dx(pool: bool, dtype: torch.dtype, device: torch.device) -> None:
    """What a loss on features asks for: dz is made, and dw is taken from it."""
    check_gradients((2, 3, 20, 5, 7), True, pool, True, dtype, device)


@pytest.mark.parametrize("pool", [False, True])
def test_gradients_without_a_relu(pool: bool, device: torch.device) -> None:
    check_gradients((2, 3, 16, 5, 7), False, pool, False, torch.float32, device)


@pytest.mark.parametrize("pool", [False, True])
def test_boxes_in_one_program(
    pool: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops over all boxes; elsewhere here a program has one, as the maps are small."""
    monkeypatch.setattr(first, "cores", lambda device: 1)
    monkeypatch.setattr(first, "TURNS", 1)
    monkeypatch.setattr(first, "resident", lambda tile, pool: 1)
    size = (1, 3, 72, 5, 35)
    check_gradients(size, True, pool, False, torch.float32, device)
    check_forward(size, True, pool, torch.float32, device)


@pytest.mark.parametrize("pool", [False, True])
def test_dz_is_not_made_without_dx(
    pool: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = maps((2, 3, 4, 6), torch.float32, device, seed=6)
    weight, bias = weights(8, 3, torch.float32, device, seed=6)
    y, codes = ops.conv3x3(x, weight, bias, True, pool, pool)
    grad = maps(tuple(y.shape), torch.float32, device, seed=7)

    def never(*_: object) -> None:
        pytest.fail("dz was made")

    monkeypatch.setattr(ops, "epilogue_backward", never)
    dx, dw, db = ops.conv3x3_backward(grad, x, weight, y, codes, (False, True, True))
    assert dx is None
    assert db is not None
    _, alone, none = ops.conv3x3_backward(grad, x, weight, y, codes, (False, True, False))
    assert none is None
    assert dw is not None
    assert torch.equal(dw, alone)


@pytest.mark.parametrize("pool", [False, True])
def test_the_rules_of_nan_in_gradients(pool: bool, device: torch.device) -> None:
    """A NaN in y passes the gradient on, a zero does not; a NaN in x stays at its own taps."""
    x = maps((1, 2, 6, 6), torch.float32, device, seed=8)
    weight, bias = weights(4, 2, torch.float32, device, seed=8)
    y, codes = EAGER.conv3x3(x, weight, bias, True, pool, pool)
    y[0, 0, 1] = float("nan")
    y[0, 1, 2] = 0
    x[0, 1, 5, 5] = float("nan")  # no pixel lies right of it or below: taps with r or s = 0 miss it
    grad = maps(tuple(y.shape), torch.float32, device, seed=9)
    needs = (False, True, True)
    _, dw, db = ops.conv3x3_backward(grad, x, weight, y, codes, needs)
    assert dw is not None
    assert db is not None
    wide = (grad.double(), x.nan_to_num(0).double(), weight.double(), y.double())
    _, oracle, sums = EAGER.conv3x3_backward(*wide, codes, True, pool, needs)
    assert sums is not None
    torch.testing.assert_close(db, sums.float())
    lost = torch.zeros_like(dw, dtype=torch.bool)
    lost[:, 1, 1:, 1:] = True
    assert torch.equal(dw.isnan(), lost)
    assert oracle is not None
    torch.testing.assert_close(dw[~lost], oracle[~lost].float())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_runs_are_bit_identical(dtype: torch.dtype, device: torch.device) -> None:
    x = maps((2, 3, 5, 40), dtype, device, seed=10)
    weight, bias = weights(24, 3, dtype, device, seed=10)
    grad = maps((2, 24, 2, 20), dtype, device, seed=11)

    def run() -> list[Tensor | None]:
        y, codes = ops.conv3x3(x, weight, bias, True, True, True)
        _, dw, db = ops.conv3x3_backward(grad, x, weight, y, codes, (False, True, True))
        return [y, codes, dw, db]

    for one, other in zip(run(), run(), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


def test_an_input_at_any_address(device: torch.device) -> None:
    flat = torch.randn(2 * 5 * 6 * 3 + 1, generator=torch.Generator().manual_seed(12)).to(device)
    x = flat[1:].view(2, 5, 6, 3).permute(0, 3, 1, 2)
    assert x.data_ptr() % 16
    weight, bias = weights(8, 3, torch.float32, device, seed=12)
    y, _ = ops.conv3x3(x, weight, bias, False, False, False)
    aligned, _ = ops.conv3x3(to_channels_last(x.clone()), weight, bias, False, False, False)
    assert torch.equal(y, aligned)


def test_no_images(device: torch.device) -> None:
    x = channels_last_empty(0, 3, 4, 4, torch.zeros(1, device=device))
    weight, bias = weights(16, 3, torch.float32, device, seed=13)
    y, codes = ops.conv3x3(x, weight, bias, True, True, True)
    assert y.shape == (0, 16, 2, 2)
    assert codes is not None
    assert codes.shape == (0, 2, 2, 4)
    for wants_dx in (False, True):
        dx, dw, db = ops.conv3x3_backward(y, x, weight, y, codes, (wants_dx, True, True))
        assert (dx is not None) == wants_dx
        assert dw is not None
        assert torch.equal(dw, torch.zeros_like(weight))
        assert db is not None
        assert torch.equal(db, torch.zeros_like(bias))
