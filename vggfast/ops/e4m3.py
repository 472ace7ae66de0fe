"""``conv3x3_e4m3`` and ``quantize_e4m3``: inference with maps and weights in float8 e4m3.

An e4m3 map holds numbers of 8 bits that stand for themselves times a float32 scale. Its channels
are padded with zeros to a multiple of 16. There is no backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.backends import e4m3 as served
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.errors import InputError
from vggfast.ops import _check
from vggfast.ops._library import define

E4M3 = torch.float8_e4m3fn
_RESULTS = (E4M3, torch.float16, torch.bfloat16, torch.float32)


def conv3x3_e4m3(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    relu: bool = False,
    pool: bool = False,
    dtype: torch.dtype = E4M3,
) -> Tensor:
    """Return pool2x2?(relu?(scale * conv(x, w, stride 1, padding 1) + shift)), rounded to dtype.

    Products are exact, sums run in float32. For e4m3 results ``scale`` and ``shift`` have been
    divided by the result's scale; values beyond +-448 become +-448.

    Args:
        x: e4m3 (N, C_pad, H, W), C_pad a multiple of 16, N >= 0, H, W >= 1 (>= 2 with ``pool``).
        w: e4m3 (9, C_out, C_pad): tap 3 r + s first, absent input channels zero.
        scale: float32 (C_out,).
        shift: float32 (C_out,).
        relu: apply max(., 0); NaN passes.
        pool: apply a 2x2 max-pool of stride 2; odd rows and columns at the end are dropped.
        dtype: of the result: float8_e4m3fn, float16, bfloat16 or float32.

    Returns:
        y channels_last, (N, C_out, H, W), or (N, C_out, H // 2, W // 2) with ``pool``; in e4m3
        with C_out padded to 16.

    Raises:
        InputError: a wrong rank, shape, dtype or device, or an x that requires a gradient.
        BackendError: no kernel serves this device.
    """
    if not isinstance(x, Tensor) or x.dtype is not E4M3:
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x: got {got}, allowed is torch.float8_e4m3fn")
    y: Tensor = _CONV(x, w, scale, shift, relu, pool, dtype)
    return y


def quantize_e4m3(x: Tensor, scale: Tensor) -> Tensor:
    """Return x / scale, clamped to +-448 and rounded to e4m3.

    Args:
        x: (N, C, H, W), N >= 0, C, H, W >= 1; float16, bfloat16 or float32.
        scale: float32 (), above 0, on x's device.

    Returns:
        y e4m3 (N, C padded to 16 with zeros, H, W), channels_last.

    Raises:
        InputError: a wrong rank, shape, dtype or device, or an x that requires a gradient.
        BackendError: no kernel serves this device.
    """
    _check.tensor("x", x)
    if torch.is_grad_enabled() and x.requires_grad:
        raise InputError(
            "x: got a tensor that requires a gradient, allowed is one that does not: e4m3 has no "
            "backward pass (torch.no_grad() or requires_grad_(False))"
        )
    y: Tensor = _QUANTIZE(x, scale)
    return y


def _output_size(
    x: Tensor, w: Tensor, scale: Tensor, shift: Tensor, pool: bool, dtype: torch.dtype
) -> tuple[int, int, int, int]:
    """Check the arguments and return the (N, C, H, W) of y."""
    _check.rank("x", x, "(N, C_pad, H, W)")
    _check.rank("w", w, "(9, C_out, C_pad)")
    _check.map_size("x", x, 2 if pool else 1)
    n, c_pad, h, width = x.shape
    c_out = w.shape[1]
    if c_pad % 16:
        raise InputError(f"x: got {c_pad} channels, allowed are multiples of 16")
    _check.shape("w", w, (9, max(c_out, 1), c_pad), f"(9, C_out >= 1, C_pad = {c_pad} of x)")
    _check.alike(x, w=w)
    for name, value in (("scale", scale), ("shift", shift)):
        _check.shape(name, value, (c_out,), "(C_out of w,)")
        _float32(x, name, value)
    if dtype not in _RESULTS:
        allowed = ", ".join(str(d).removeprefix("torch.") for d in _RESULTS)
        raise InputError(f"dtype: got {dtype}, allowed are {allowed}")
    c = -(-c_out // 16) * 16 if dtype is E4M3 else c_out
    return (n, c, h // 2, width // 2) if pool else (n, c, h, width)


def _float32(x: Tensor, name: str, value: Tensor) -> None:
    if value.dtype is not torch.float32:
        raise InputError(f"{name}: got dtype {value.dtype}, allowed is torch.float32")
    _check.beside(x, name, value)


def _conv_kernel(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    pool: bool,
    dtype: torch.dtype,
) -> Tensor:
    size = _output_size(x, w, scale, shift, pool, dtype)
    kernels = served.kernels(x.device, dtype)
    y: Tensor = kernels.conv3x3_e4m3(
        to_channels_last(x), w.contiguous(), scale.contiguous(), shift.contiguous(), relu, pool,
        dtype,
    )  # fmt: skip
    assert tuple(y.shape) == size, f"the kernel returned {tuple(y.shape)}, not {size}"
    return to_channels_last(y)


def _conv_fake(
    x: Tensor,
    w: Tensor,
    scale: Tensor,
    shift: Tensor,
    relu: bool,
    pool: bool,
    dtype: torch.dtype,
) -> Tensor:
    return _empty(_output_size(x, w, scale, shift, pool, dtype), x, dtype)


def _quantized_size(x: Tensor, scale: Tensor) -> tuple[int, int, int, int]:
    _check.rank("x", x, "(N, C, H, W)")
    _check.map_size("x", x, 1)
    if x.dtype is torch.float64:
        raise InputError("x: got dtype torch.float64, allowed are float16, bfloat16, float32")
    _check.shape("scale", scale, (), "one number")
    _float32(x, "scale", scale)
    n, c, h, w = x.shape
    return n, -(-c // 16) * 16, h, w


def _quantize_kernel(x: Tensor, scale: Tensor) -> Tensor:
    _quantized_size(x, scale)
    y: Tensor = served.kernels(x.device, E4M3).quantize_e4m3(to_channels_last(x), scale)
    return to_channels_last(y)


def _quantize_fake(x: Tensor, scale: Tensor) -> Tensor:
    return _empty(_quantized_size(x, scale), x, E4M3)


def _empty(size: tuple[int, int, int, int], x: Tensor, dtype: torch.dtype) -> Tensor:
    like = torch.empty(0, dtype=dtype, device=x.device)
    return channels_last_empty(*size, like)


_CONV = define(
    "conv3x3_e4m3",
    "(Tensor x, Tensor w, Tensor scale, Tensor shift, bool relu, bool pool, ScalarType dtype) "
    "-> Tensor",
    _conv_kernel,
    _conv_fake,
)
_QUANTIZE = define(
    "quantize_e4m3", "(Tensor x, Tensor scale) -> Tensor", _quantize_kernel, _quantize_fake
)
