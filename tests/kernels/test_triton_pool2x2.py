"""maxpool2x2 of the Triton kernels: equal to torch's bit for bit, both ways."""

from __future__ import annotations

import pytest
import torch
from triton_cases import DTYPES, maps
from vggfast.kernels import ops

from vggfast.backends.base import channels_last_empty
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()
SIZES = ((1, 1, 2, 2), (2, 3, 5, 4), (3, 8, 2, 9), (1, 72, 7, 7), (5, 130, 3, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_equals_torch(
    size: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    """Rounded to integers values tie often; some are NaN, infinite or a negative zero."""
    x = (2 * maps(size, dtype, device, seed=1)).round()
    x.permute(0, 2, 3, 1).view(-1)[::7] = float("nan")
    x.permute(0, 2, 3, 1).view(-1)[3::11] = float("-inf")
    x.permute(0, 2, 3, 1).view(-1)[5::13] = -0.0
    y, codes = ops.maxpool2x2(x, True)
    expected, expected_codes = EAGER.maxpool2x2(x, True)
    assert torch.equal(y.nan_to_num(99), expected.nan_to_num(99))
    assert y.permute(0, 2, 3, 1).is_contiguous()
    assert codes is not None
    assert expected_codes is not None
    assert torch.equal(codes, expected_codes)
    without, none = ops.maxpool2x2(x, False)
    assert torch.equal(without.nan_to_num(99), y.nan_to_num(99))
    assert none is None

    grad = maps(tuple(y.shape), dtype, device, seed=2)
    dx = ops.maxpool2x2_backward(grad, codes, *size[2:])
    assert torch.equal(dx, EAGER.maxpool2x2_backward(grad, codes, *size[2:]))
    assert dx.permute(0, 2, 3, 1).is_contiguous()


def test_no_images(device: torch.device) -> None:
    x = channels_last_empty(0, 5, 4, 6, torch.zeros(1, device=device))
    y, codes = ops.maxpool2x2(x, True)
    assert y.shape == (0, 5, 2, 3)
    assert codes is not None
    assert codes.shape == (0, 2, 3, 2)
    assert ops.maxpool2x2_backward(y, codes, 4, 6).shape == x.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs 7 GB of GPU memory")
def test_more_than_2_to_31_elements() -> None:
    """Offsets are 64-bit: the last image of a map past 2^31 elements is pooled like any other."""
    x = torch.zeros((2049, 128, 128, 64), dtype=torch.float16, device="cuda").permute(0, 3, 1, 2)
    x[-1] = maps((1, 64, 128, 128), torch.float16, x.device, seed=3)[0]
    y, codes = ops.maxpool2x2(x, True)
    last, last_codes = ops.maxpool2x2(x[-1:].contiguous(memory_format=torch.channels_last), True)
    assert torch.equal(y[-1:], last)
    assert codes is not None
    assert last_codes is not None
    assert torch.equal(codes[-1:], last_codes)
