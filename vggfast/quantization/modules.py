"""The modules of a quantised network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from vggfast import ops, reference
from vggfast.errors import InputError
from vggfast.nn import FusedSequential

E4M3 = torch.float8_e4m3fn
E4M3_MAX = reference.E4M3_MAX
_SMALLEST = 2.0**-100  # of a scale: its reciprocal must be a float32

_emulating: ContextVar[bool] = ContextVar("vggfast_e4m3_emulated", default=False)


@contextmanager
def emulated() -> Iterator[None]:
    """Within the block quantised layers run ``vggfast.reference``, on any device and slowly.

    The numbers are those of the kernels but for what the kernels' sums in float32 round, and on
    Hopper those of its tensor cores (docs/numerics.md).
    """
    token = _emulating.set(True)
    try:
        yield
    finally:
        _emulating.reset(token)


class Conv3x3E4m3(nn.Module):
    """A 3x3 convolution with bias, perhaps a ReLU and a 2x2 max-pool, in e4m3.

    Args:
        w: weights (C_out, C_in, 3, 3), float32.
        b: bias (C_out,), float32, or None.
        input_peak: the largest absolute value of a map that enters, which becomes 448.
        output_peak: that of the map it makes, or None for a result that is not quantised.
        relu, pool: what follows the convolution.

    Buffers, whose dtypes casts of the module leave as they are: ``weight_bits`` (9, C_out, C_in
    padded to 16), e4m3 numbers as uint8, since torch cannot pickle the former; ``input_scale``
    float32 (); ``scale`` and ``shift`` float32 (C_out,), what a sum of products is multiplied by
    and what is added then (kernels/e4m3.py).
    """

    weight_bits: Tensor
    input_scale: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        w: Tensor,
        b: Tensor | None,
        input_peak: float,
        output_peak: float | None,
        relu: bool,
        pool: bool,
    ) -> None:
        super().__init__()
        self.out_channels, self.in_channels = w.shape[:2]
        self.relu, self.pool, self.quantizes = relu, pool, output_peak is not None
        peaks = w.abs().amax((1, 2, 3))
        w_scale = torch.where(peaks > 0, peaks / E4M3_MAX, 1.0).clamp_min(_SMALLEST)
        x_scale, y_scale = _scale(input_peak), 1.0 if output_peak is None else _scale(output_peak)
        bias = torch.zeros_like(w_scale) if b is None else b
        self.register_buffer("weight_bits", _packed(w / w_scale.view(-1, 1, 1, 1)))
        self.register_buffer("input_scale", torch.tensor(x_scale, device=w.device))
        self.register_buffer("scale", (x_scale * w_scale.double() / y_scale).float())
        self.register_buffer("shift", (bias.double() / y_scale).float())
        if not (torch.isfinite(self.scale).all() and torch.isfinite(self.shift).all()):
            raise InputError(
                f"model: got weights or a bias whose scales are not finite in a convolution of "
                f"{self.in_channels} to {self.out_channels} channels, allowed are finite ones"
            )

    @property
    def weight(self) -> Tensor:
        """The weights divided by their scales: e4m3 (9, C_out, C_in padded to 16), tap first."""
        return self.weight_bits.view(E4M3)

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The result for a map x, e4m3 or not; one that is not quantised gets ``dtype``, or x's.

        Raises:
            InputError: x has another shape or dtype, or requires a gradient.
            BackendError: no kernel serves x's device.
        """
        arithmetic: Any = reference if _emulating.get() else ops
        dtype = dtype or (torch.float32 if x.dtype is E4M3 else x.dtype)
        if x.dtype is not E4M3:
            if x.dim() == 4 and x.shape[1] != self.in_channels:
                raise InputError(
                    f"x: got shape {tuple(x.shape)}, allowed is (N, {self.in_channels}, H, W)"
                )
            x = arithmetic.quantize_e4m3(x, self.input_scale)
        y: Tensor = arithmetic.conv3x3_e4m3(
            x, self.weight, self.scale, self.shift, relu=self.relu, pool=self.pool,
            dtype=E4M3 if self.quantizes else dtype,
        )  # fmt: skip
        return y

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def moved(t: Tensor) -> Tensor:
            out = fn(t)  # a cast to half, say, would cast scales too
            return out if out.dtype is t.dtype else t.to(out.device)

        return super()._apply(moved, recurse)

    def extra_repr(self) -> str:
        then = ", relu" * self.relu + ", pool" * self.pool
        result = "e4m3" if self.quantizes else "of the model's dtype"
        return f"{self.in_channels}, {self.out_channels}{then}, result {result}"


class QuantizedSequential(FusedSequential):
    """What :func:`vggfast.quantize` makes of a ``FusedSequential`` with 3x3 convolutions.

    Its children are parts of it in order: convolutions in e4m3, and between them
    ``FusedSequential`` of what stays in the model's dtype. Maps go from one e4m3 convolution to
    the next as e4m3; a slice that ends between two returns such a map.
    """

    def forward(self, input: Tensor) -> Tensor:
        x, dtype = input, input.dtype
        for part in self:
            if isinstance(part, Conv3x3E4m3):
                x = part(x, dtype)
            else:
                x = part(x)
                dtype = x.dtype
        return x


def _scale(peak: float) -> float:
    """The scale that makes ``peak`` the largest e4m3, as a float32; a map of zeros gets 1."""
    wanted = max(peak / E4M3_MAX, _SMALLEST) if peak > 0 else 1.0
    return torch.tensor(wanted, dtype=torch.float32).item()


def _packed(w: Tensor) -> Tensor:
    """(C_out, C_in, 3, 3) of up to +-448 -> bits of e4m3 (9, C_out, C_in padded to 16)."""
    c_out, c_in = w.shape[:2]
    rows = w.new_zeros((9, c_out, -(-c_in // 16) * 16))
    rows[:, :, :c_in] = w.permute(2, 3, 0, 1).reshape(9, c_out, c_in)
    return rows.clamp(-E4M3_MAX, E4M3_MAX).to(E4M3).view(torch.uint8)
