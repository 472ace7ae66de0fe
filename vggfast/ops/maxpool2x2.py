"""``maxpool2x2``: 2x2 max-pool of stride 2 (Simonyan & Zisserman 2014, section 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vggfast.backends import Call, Serving
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.ops import _check
from vggfast.ops._library import absent, define


def maxpool2x2(x: Tensor, *, backend: str | None = None) -> Tensor:
    """Return the maximum of each 2x2 window of x, stride 2, differentiable once.

    The first maximum of a window takes the gradient, NaN propagates, as torch does it. Backward
    keeps 2 bits per output element and nothing else.

    Args:
        x: (N, C, H, W), N >= 0, C >= 1, H, W >= 2; float16, bfloat16, float32 or float64.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        y (N, C, H // 2, W // 2), channels_last; an odd last row or column is dropped.

    Raises:
        InputError: a wrong rank, shape or dtype.
        BackendError: a forced backend cannot serve the call.
    """
    x = _check.array("x", x)
    _check.tensor("x", x)
    save_argmax = torch.is_grad_enabled() and x.requires_grad
    y: Tensor = _OP(x, save_argmax, backend)[0]
    return y


def _output_size(x: Tensor) -> tuple[int, int, int, int]:
    _check.tensor("x", x)
    _check.rank("x", x, "(N, C, H, W)")
    _check.map_size("x", x, 2)
    n, c, h, w = x.shape
    return n, c, h // 2, w // 2


def _kernel(x: Tensor, save_argmax: bool, backend: str | None) -> tuple[Tensor, Tensor]:
    _output_size(x)
    chosen = Serving(Call("maxpool2x2", x.device.type, x.dtype, x.shape[1], x.shape[1]), backend)
    if x.shape[0] == 0:
        return _fake(x, save_argmax, backend)
    y, argmax = chosen.maxpool2x2(to_channels_last(x), save_argmax)
    return y, absent(x, torch.uint8) if argmax is None else argmax


def _fake(x: Tensor, save_argmax: bool, backend: str | None) -> tuple[Tensor, Tensor]:
    n, c, h, w = _output_size(x)
    y = channels_last_empty(n, c, h, w, x)
    if not save_argmax:
        return y, absent(x, torch.uint8)
    return y, torch.empty((n, h, w, (c + 3) // 4), dtype=torch.uint8, device=x.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, save_argmax, backend = inputs
    ctx.size, ctx.saved, ctx.backend = tuple(x.shape[2:]), save_argmax, backend
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None
    if not ctx.saved:
        raise RuntimeError(
            "vggfast::maxpool2x2 was called with save_argmax=False, so it cannot be "
            "differentiated; call vggfast.ops.maxpool2x2, which decides this by requires_grad"
        )
    (argmax,) = ctx.saved_tensors
    return _BACKWARD_OP(grad, argmax, *ctx.size, ctx.backend), None, None


def _backward_kernel(
    grad: Tensor, argmax: Tensor, height: int, width: int, backend: str | None
) -> Tensor:
    c = grad.shape[1]
    chosen = Serving(Call("maxpool2x2", grad.device.type, grad.dtype, c, c), backend)
    if grad.shape[0] == 0:
        return _backward_fake(grad, argmax, height, width, backend)
    return chosen.maxpool2x2_backward(to_channels_last(grad), argmax.contiguous(), height, width)


def _backward_fake(
    grad: Tensor, argmax: Tensor, height: int, width: int, backend: str | None
) -> Tensor:
    return channels_last_empty(grad.shape[0], grad.shape[1], height, width, grad)


_BACKWARD_OP = define(
    "maxpool2x2_backward",
    "(Tensor grad, Tensor argmax, SymInt height, SymInt width, str? backend) -> Tensor",
    _backward_kernel,
    _backward_fake,
)
_OP = define(
    "maxpool2x2",
    "(Tensor x, bool save_argmax, str? backend) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
