"""conv3x3 of the Triton kernels against float64: forward, argmax, gradients, edges, repeats."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from triton_cases import DTYPES, assert_close, double, maps, name, weights
from vggfast.kernels import ops

from vggfast import reference
from vggfast.backends import argmax as packed
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()

# (N, C_in, C_out, H, W): 1 channel, channels that need padding, odd maps, more than one tile along
# channels and pixels, maps smaller than a box, N that no box divides.
SIZES = (
    (1, 1, 1, 1, 1),
    (1, 1, 5, 1, 7),
    (2, 3, 64, 9, 6),
    (3, 5, 3, 7, 5),
    (1, 8, 72, 5, 33),
    (5, 72, 8, 3, 3),
    (33, 8, 8, 2, 2),
)
POOLED = tuple(s for s in SIZES if min(s[3:]) >= 2)


@pytest.mark.parametrize("c_in", [3, 16])
def test_weights_in_channels_last_memory(c_in: int, device: torch.device) -> None:
    """As after ``model.to(memory_format=torch.channels_last)``; twice, so that they are kept."""
    x = maps((2, c_in, 6, 5), torch.float32, device, seed=2)
    weight, bias = weights(8, c_in, torch.float32, device, seed=2)
    moved = weight.to(memory_format=torch.channels_last)
    want, codes = ops.conv3x3(x, weight, bias, True, True, True)
    grads = ops.conv3x3_backward(want, x, weight, want, codes, (True, True, True))
    for _ in range(3):
        y, argmax = ops.conv3x3(x, moved, bias, True, True, True)
        assert torch.equal(y, want)
        found = ops.conv3x3_backward(y, x, moved, y, argmax, (True, True, True))
        for grad, wanted in zip(found, grads, strict=True):
            assert grad is not None
            assert wanted is not None
            assert torch.equal(grad, wanted)
            assert grad.stride() == wanted.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=name)
def test_forward(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=1)
    weight, bias = weights(c_out, c_in, dtype, device, seed=1)
    for b, relu, pool in ((bias, True, True), (bias, True, False), (None, False, False)):
        if pool and size not in POOLED:
            continue
        y, codes = ops.conv3x3(x, weight, b, relu, pool, False)
        assert codes is None
        assert y.dtype == dtype
        assert y.permute(0, 2, 3, 1).is_contiguous()
        oracle = reference.conv3x3(x.double(), weight.double(), double(b), relu, pool)
        theirs, _ = EAGER.conv3x3(x, weight, b, relu, pool, False)
        assert_close(f"y, relu={relu}, pool={pool}", y, theirs, oracle, 9 * c_in)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", POOLED, ids=name)
def test_fused_pool_is_the_pool_of_the_map(
    size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Values and argmax of the fused pool equal torch's pool of our unfused map, bit for bit."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=2)
    weight, bias = weights(c_out, c_in, dtype, device, seed=2)
    for relu in (True, False):  # with a ReLU about a sixteenth of the windows tie at zero
        whole, _ = ops.conv3x3(x, weight, bias, relu, False, False)
        y, codes = ops.conv3x3(x, weight, bias, relu, True, True)
        expected, indices = F.max_pool2d(whole, 2, return_indices=True)
        assert torch.equal(y, expected)
        assert codes is not None
        assert torch.equal(codes, packed.pack(indices, w))


def test_ties_and_nan_in_a_fused_pool(device: torch.device) -> None:
    """Values from {-1, 0, 1, NaN} through an identity kernel: every rule of the argmax is met."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randint(-1, 2, (4, 8, 8, 10), generator=generator).float()
    x[::2, :, 1::3, 2::4] = float("nan")
    x = to_channels_last(x.to(device))
    weight = torch.zeros(8, 8, 3, 3, device=device)
    weight[range(8), range(8), 1, 1] = 1
    # 0 * NaN is NaN: a NaN spreads to its neighbours, in every output channel.
    lost = F.max_pool2d(x.isnan().float(), 3, stride=1, padding=1).amax(1, keepdim=True) > 0
    for relu in (True, False):
        whole, _ = ops.conv3x3(x, weight, None, relu, False, False)
        assert torch.equal(whole.isnan(), lost.expand_as(whole))
        y, codes = ops.conv3x3(x, weight, None, relu, True, True)
        expected, indices = F.max_pool2d(whole, 2, return_indices=True)
        assert torch.equal(y.nan_to_num(99), expected.nan_to_num(99))
        assert codes is not None
        assert torch.equal(codes, packed.pack(indices, 10))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("size", "relu", "pool"),
    [(s, True, True) for s in POOLED]
    + [(s, True, False) for s in SIZES]
    + [(s, False, False) for s in SIZES[3:6]],
    ids=lambda value: name(value) if isinstance(value, tuple) else str(value),
)
def test_gradients(
    size: tuple[int, ...], relu: bool, pool: bool, dtype: torch.dtype, device: torch.device
) -> None:
    """Against float64 gradients through the same mask and argmax, beside torch's own."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=4)
    weight, bias = weights(c_out, c_in, dtype, device, seed=4)
    y, codes = EAGER.conv3x3(x, weight, bias, relu, pool, pool)
    grad = maps(tuple(y.shape), dtype, device, seed=5)
    mask = y if relu else None
    ours = ops.conv3x3_backward(grad, x, weight, mask, codes, (True, True, True))
    every = (relu, pool, (True, True, True))
    theirs = EAGER.conv3x3_backward(grad, x, weight, mask, codes, *every)
    oracle = EAGER.conv3x3_backward(
        grad.double(), x.double(), weight.double(), double(mask), codes, *every
    )
    terms = (9 * c_out, n * h * w, n * h * w)
    for what, a, b, c, k in zip(("dx", "dw", "db"), ours, theirs, oracle, terms, strict=True):
        assert_close(what, a, b, c, k)
    assert ours[0] is not None
    assert ours[0].permute(0, 2, 3, 1).is_contiguous()
    assert ours[1] is not None
    assert ours[1].is_contiguous()


@pytest.mark.parametrize(
    "needs", [(True, False, False), (False, True, False), (False, False, True)]
)
@pytest.mark.parametrize(("relu", "pool"), [(True, True), (True, False), (False, False)])
def test_each_gradient_alone(
    needs: tuple[bool, bool, bool], relu: bool, pool: bool, device: torch.device
) -> None:
    """One gradient asked for alone equals the same one among three; x without data where unused."""
    x = maps((2, 5, 4, 6), torch.float32, device, seed=6)
    weight, bias = weights(3, 5, torch.float32, device, seed=6)
    y, codes = ops.conv3x3(x, weight, bias, relu, pool, pool)
    grad = maps(tuple(y.shape), torch.float32, device, seed=7)
    mask = y if relu else None
    together = ops.conv3x3_backward(grad, x, weight, mask, codes, (True, True, True))
    shaped = x if needs[1] else x.new_empty(1).expand(x.shape)
    alone = ops.conv3x3_backward(grad, shaped, weight, mask, codes, needs)
    for wanted, one, of_three in zip(needs, alone, together, strict=True):
        if wanted:
            assert one is not None
            assert torch.equal(one, of_three)
        else:
            assert one is None


def test_nan_in_y_passes_the_gradient(device: torch.device) -> None:
    y = maps((1, 3, 4, 4), torch.float32, device, seed=8)
    y[0, :, 1] = float("nan")
    y[0, :, 2] = 0
    grad = maps((1, 3, 4, 4), torch.float32, device, seed=9)
    weight, _ = weights(3, 2, torch.float32, device, seed=8)
    x = maps((1, 2, 4, 4), torch.float32, device, seed=9)
    _, _, db = ops.conv3x3_backward(grad, x, weight, y, None, (False, False, True))
    assert db is not None
    torch.testing.assert_close(db, torch.where(y <= 0, 0, grad).sum((0, 2, 3)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_runs_are_bit_identical(dtype: torch.dtype, device: torch.device) -> None:
    x = maps((3, 12, 8, 9), dtype, device, seed=10)
    weight, bias = weights(20, 12, dtype, device, seed=10)
    grad = maps((3, 20, 4, 4), dtype, device, seed=11)

    def run() -> list[Tensor | None]:
        y, codes = ops.conv3x3(x, weight, bias, True, True, True)
        return [y, codes, *ops.conv3x3_backward(grad, x, weight, y, codes, (True, True, True))]

    for first, second in zip(run(), run(), strict=True):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)


def test_a_misaligned_input(device: torch.device) -> None:
    """A view that starts at an address TMA cannot take is copied, not read askew."""
    flat = torch.randn(2 * 6 * 6 * 8 + 1, generator=torch.Generator().manual_seed(12)).to(device)
    x = flat[1:].view(2, 6, 6, 8).permute(0, 3, 1, 2)
    assert x.data_ptr() % 16
    weight, bias = weights(8, 8, torch.float32, device, seed=12)
    y, _ = ops.conv3x3(x, weight, bias, False, False, False)
    aligned, _ = ops.conv3x3(x.clone(), weight, bias, False, False, False)
    assert torch.equal(y, aligned)


def test_no_images(device: torch.device) -> None:
    x = channels_last_empty(0, 8, 4, 4, torch.zeros(1, device=device))
    weight, bias = weights(16, 8, torch.float32, device, seed=13)
    y, codes = ops.conv3x3(x, weight, bias, True, True, True)
    assert y.shape == (0, 16, 2, 2)
    assert codes is not None
    assert codes.shape == (0, 2, 2, 4)
    dx, dw, db = ops.conv3x3_backward(y, x, weight, y, codes, (True, True, True))
    assert dx is not None
    assert dx.shape == x.shape
    assert dw is not None
    assert torch.equal(dw, torch.zeros_like(weight))
    assert db is not None
    assert torch.equal(db, torch.zeros_like(bias))
