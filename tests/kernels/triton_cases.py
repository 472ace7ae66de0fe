"""What the tests of the Triton kernels share: inputs, the dtypes to run, the error they allow."""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast import reference
from vggfast.backends.base import to_channels_last

GPU = torch.cuda.is_available()
# The interpreter multiplies bfloat16 wrongly; the compile check covers its machine code.
DTYPES = (torch.float32, torch.float16, *((torch.bfloat16,) if GPU else ()))


def maps(size: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """Normal values (N, C, H, W) in channels_last memory."""
    generator = torch.Generator().manual_seed(seed)
    return to_channels_last(torch.randn(size, generator=generator).to(device, dtype))


def weights(
    c_out: int, c_in: int, dtype: torch.dtype, device: torch.device, seed: int
) -> tuple[Tensor, Tensor]:
    """Weights (C_out, C_in, 3, 3) that keep the variance, and a bias (C_out,)."""
    generator = torch.Generator().manual_seed(1000 + seed)
    w = torch.randn((c_out, c_in, 3, 3), generator=generator) / (9 * c_in) ** 0.5
    b = torch.randn((c_out,), generator=generator)
    return w.to(device, dtype), b.to(device, dtype)


def name(size: tuple[int, ...]) -> str:
    """For test ids."""
    return "x".join(map(str, size))


def double(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.double()


def assert_close(what: str, ours: Tensor | None, theirs: Tensor | None, oracle: Tensor | None,
                 terms: int) -> None:  # fmt: skip
    """Our relative error to float64 is at most twice torch's plus a rounding term.

    The term is the rounding of the result, eps / 2 of its dtype, and that of sums of ``terms``
    float32 products, which grows as a random walk does: eps(float32) * sqrt(terms).
    """
    assert ours is not None, f"{what} is missing"
    assert theirs is not None
    assert oracle is not None
    assert oracle.dtype == torch.float64
    assert ours.shape == oracle.shape, f"{what}: {tuple(ours.shape)}, not {tuple(oracle.shape)}"
    rounding = torch.finfo(ours.dtype).eps / 2 + torch.finfo(torch.float32).eps * terms**0.5
    bound = 2 * reference.errors(theirs, oracle).rel + rounding
    error = reference.errors(ours, oracle).rel
    assert error <= bound, f"{what}: relative error {error:.2e} > {bound:.2e}"
