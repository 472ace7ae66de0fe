"""The arithmetic of e4m3 inference in plain torch: what the kernels are held to, number by number.

An e4m3 number has a sign, 4 bits of exponent and 3 of mantissa: 448 at most, steps of an eighth of
the power of two below, 2^-9 the smallest. A map or a channel of weights is stored as such numbers
and a float32 scale.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3_MAX = 448.0


def quantize_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """x (N, C, H, W) / scale, clamped to +-448, rounded to e4m3: (N, C padded to 16, H, W).

    float32: x times the reciprocal of ``scale``, a scalar. Channels beyond C are zeros.
    """
    values = _to_e4m3(x.float() * (1 / scale.float()))
    short = -x.shape[1] % 16
    # torch pads no float8; zeros are zeros in bytes too.
    padded = F.pad(values.view(torch.uint8), (0, 0, 0, 0, 0, short)).view(torch.float8_e4m3fn)
    return _channels_last(padded)


def conv3x3_e4m3(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    pool: bool,
    dtype: torch.dtype,
    sums: torch.dtype = torch.float64,
) -> Tensor:
    """pool2x2?(relu?(scale * conv(x, w) + shift)) of e4m3 x and w, rounded once, to ``dtype``.

    x (N, C_pad, H, W), w (9, C_out, C_pad) tap first, scale and shift (C_out,). y is
    (N, C_out, H, W), pooled or not; in e4m3 its channels are padded to 16 with zeros. ``sums`` is
    the dtype of everything up to the rounding.
    """
    y = exact_conv3x3_e4m3(x, w, scale, shift, relu, pool, sums)
    if dtype is torch.float8_e4m3fn:
        return quantize_e4m3(y, torch.ones((), device=y.device))
    return _channels_last(y.to(dtype))


def exact_conv3x3_e4m3(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    pool: bool,
    sums: torch.dtype = torch.float64,
) -> Tensor:
    """The same before it is rounded, (N, C_out, H, W) or pooled, in ``sums``."""
    c_out, c_pad = w.shape[1:]
    taps = w.to(sums).view(3, 3, c_out, c_pad).permute(2, 3, 0, 1)
    y = F.conv2d(x.to(sums), taps, padding=1)
    y = y * scale.to(sums).view(1, -1, 1, 1) + shift.to(sums).view(1, -1, 1, 1)
    y = F.relu(y) if relu else y
    return F.max_pool2d(y, 2) if pool else y


def _to_e4m3(x: Tensor) -> Tensor:
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _channels_last(x: Tensor) -> Tensor:
    """``x`` in channels_last memory, with the strides that the kernels give."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
