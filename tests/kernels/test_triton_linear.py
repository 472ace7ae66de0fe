"""The fully connected layer for a few images: against float64, edges, repeats, who serves it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from triton_cases import DTYPES, GPU, assert_close
from vggfast.kernels import ops

from vggfast import ops as public
from vggfast.backends.base import Backend
from vggfast.backends.triton import TritonBackend

# (M, K, OUT): one image, one input, one output, K over several splits, sizes off every block.
SIZES = ((1, 1, 1), (1, 300, 70), (3, 8, 5), (8, 4100, 65), (16, 513, 130))


def layer(
    m: int, k: int, out: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m + k + out)
    x = torch.randn((m, k), generator=generator)
    w = torch.randn((out, k), generator=generator) / k**0.5
    b = torch.randn((out,), generator=generator)
    return x.to(device, dtype), w.to(device, dtype), b.to(device, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_against_float64(
    size: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> None:
    x, w, b = layer(*size, dtype, device)
    for bias, relu in ((b, True), (None, False)):
        y = ops.linear(x, w, bias, relu)
        oracle = x.double() @ w.double().t() + (0 if bias is None else bias.double())
        theirs = Backend().gemm(x, w, bias, relu)
        assert y.dtype == dtype
        assert_close("y", y, theirs, oracle.relu() if relu else oracle, size[1])
        assert torch.equal(y, ops.linear(x, w, bias, relu)), "another result"


def test_nan_passes_the_relu(device: torch.device) -> None:
    x, w, b = layer(2, 40, 6, torch.float32, device)
    x[1, 3] = float("nan")
    y = ops.linear(x, w, b, True)
    assert y[1].isnan().all()
    assert not y[0].isnan().any()


def test_unaligned_weights(device: torch.device) -> None:
    """A view that starts off 16 bytes, which no descriptor takes, is copied."""
    x, _, b = layer(2, 40, 6, torch.float16, device)
    w = torch.randn(1 + 6 * 40, device=device).half()[1:].view(6, 40)
    oracle = x.double() @ w.double().t() + b.double()
    assert_close("y", ops.linear(x, w, b, False), Backend().gemm(x, w, b, False), oracle, 40)


def test_who_serves(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    served: list[int] = []
    real = ops.linear

    def counted(x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
        served.append(x.shape[0])
        return real(x, w, b, relu)

    monkeypatch.setattr(ops, "linear", counted)
    for m in (0, 1, 16, 17):
        x, w, b = layer(m, 24, 9, torch.float32, device)
        y = public.linear(x, w, b, relu=True, backend="triton")
        torch.testing.assert_close(y, (x @ w.t() + b).relu())
    assert served == [1, 16]
    if not GPU:
        return
    x, w, b = layer(4, 24, 9, torch.float32, device)
    wide = TritonBackend().gemm(x, w.bfloat16(), b, False)  # two dtypes are the library's
    assert wide.dtype == torch.float32


def test_a_bias_with_strides(device: torch.device) -> None:
    x, w, b = layer(3, 40, 6, torch.float32, device)
    wide = torch.stack((b, torch.full_like(b, 99)), 1)[:, 0]
    assert wide.stride() == (2,)
    y = public.linear(x, w, wide, backend="triton")
    torch.testing.assert_close(y, x @ w.t() + b)
    pixels = public.conv1x1(x[:, :, None, None], w[:, :, None, None], wide, backend="triton")
    torch.testing.assert_close(pixels.flatten(1), y)
