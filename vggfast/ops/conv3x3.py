"""``conv3x3``: 3x3 convolution, stride 1, padding 1, with bias, ReLU and a 2x2 max-pool fused in.

y = pool2x2?(relu?(conv(x, w) + b)), the layer of Simonyan & Zisserman 2014, section 2.1. Backward
keeps x, w, the output (whose sign is the ReLU's mask) and a 2-bit argmax per pooled element; the
map before the pool is never kept.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vggfast.backends import Call, Serving
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.ops import _check
from vggfast.ops._library import absent, ambient_dtype, define


def conv3x3(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    relu: bool = False,
    pool: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Return pool2x2?(relu?(conv(x, w, stride 1, padding 1) + b)), differentiable once.

    Args:
        x: input (N, C_in, H, W), N >= 0, H, W >= 1 (>= 2 with ``pool``); any strides, best
            channels_last (others are converted, one copy).
        w: weights (C_out, C_in, 3, 3), dtype and device of x: float16, bfloat16, float32, float64.
        b: bias (C_out,) or None.
        relu: apply max(., 0); NaN passes.
        pool: apply a 2x2 max-pool of stride 2 last; odd rows and columns at the end are dropped.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        y (N, C_out, H, W), or (N, C_out, H // 2, W // 2) with ``pool``, channels_last.

    Raises:
        InputError: a wrong rank, shape, dtype or device.
        BackendError: a forced backend cannot serve the call.
    """
    x, w, b = _check.array("x", x), _check.array("w", w), _check.array("b", b)
    for name, value in (("x", x), ("w", w)) if b is None else (("x", x), ("w", w), ("b", b)):
        _check.tensor(name, value)
    wanted = (x, w) if b is None else (x, w, b)
    save_argmax = pool and torch.is_grad_enabled() and any(t.requires_grad for t in wanted)
    y: Tensor = _OP(x, w, b, relu, pool, save_argmax, backend)[0]
    return y


def _output_size(x: Tensor, w: Tensor, b: Tensor | None, pool: bool) -> tuple[int, int, int, int]:
    """Check the arguments and return the output's (N, C, H, W)."""
    for name, value in (("x", x), ("w", w)):
        _check.tensor(name, value)
    _check.rank("x", x, "(N, C_in, H, W)")
    _check.rank("w", w, "(C_out, C_in, 3, 3)")
    _check.map_size("x", x, 2 if pool else 1)
    n, c_in, h, width = x.shape
    c_out = w.shape[0]
    _check.shape("w", w, (max(c_out, 1), c_in, 3, 3), f"(C_out >= 1, C_in = {c_in} of x, 3, 3)")
    _check.shape("b", b, (c_out,), "(C_out of w,)")
    _check.alike(x, w=w, b=b)
    return (n, c_out, h // 2, width // 2) if pool else (n, c_out, h, width)


def _argmax_size(n: int, c: int, h: int, w: int) -> tuple[int, int, int, int]:
    return n, h, w, (c + 3) // 4


def _kernel(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    size = _output_size(x, w, b, pool)
    chosen = Serving(Call("conv3x3", x.device.type, x.dtype, x.shape[1], w.shape[0]), backend)
    if x.shape[0] == 0:
        return _fake(x, w, b, relu, pool, save_argmax, backend)
    y, argmax = chosen.conv3x3(
        to_channels_last(x),
        w,
        None if b is None else b.contiguous(),
        relu,
        pool,
        save_argmax,
    )
    assert tuple(y.shape) == size, f"{chosen.name} returned {tuple(y.shape)}, not {size}"
    return y, absent(x, torch.uint8) if argmax is None else argmax


def _fake(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    size = _output_size(x, w, b, pool)
    y = channels_last_empty(*size, like=x)
    if not (pool and save_argmax):
        return y, absent(x, torch.uint8)
    return y, torch.empty(_argmax_size(*size), dtype=torch.uint8, device=x.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, w, b, relu, pool, save_argmax, backend = inputs
    y, argmax = output
    ctx.relu, ctx.pool, ctx.backend = relu, pool, backend
    ctx.has_bias, ctx.has_argmax = b is not None, save_argmax
    # x only for wgrad and w only for dgrad: a frozen layer keeps half.
    _, w_needs, _ = ctx.needs_input_grad[:3]
    ctx.x_size = tuple(x.shape)
    ctx.save_for_backward(
        x if w_needs else None, w, y if relu else None, argmax if pool and save_argmax else None
    )


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    none = (None,) * 7
    if grad is None:
        return none
    x, w, y, argmax = ctx.saved_tensors
    if ctx.pool and not ctx.has_argmax:
        raise RuntimeError(
            "vggfast::conv3x3 was called with save_argmax=False and pool=True, so it cannot be "
            "differentiated; call vggfast.ops.conv3x3, which decides this by requires_grad"
        )
    needs = list(ctx.needs_input_grad[:3])
    if not any(needs):
        return none
    dx, dw, db = _BACKWARD_OP(
        grad, x, list(ctx.x_size), w, y, argmax, ctx.relu, ctx.pool, needs, ctx.backend
    )
    return (*(g if n else None for g, n in zip((dx, dw, db), needs, strict=True)), *none[3:])


def _backward_kernel(
    grad: Tensor,
    x: Tensor | None,
    x_size: list[int],
    w: Tensor,
    y: Tensor | None,
    argmax: Tensor | None,
    relu: bool,
    pool: bool,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    chosen = Serving(Call("conv3x3", grad.device.type, grad.dtype, w.shape[1], w.shape[0]), backend)
    if x_size[0] == 0:
        return tuple(  # type: ignore[return-value]
            t.zero_()
            for t in _backward_fake(grad, x, x_size, w, y, argmax, relu, pool, needs, backend)
        )
    # What was kept may come back with other strides: saved-tensor hooks store it as they like.
    y = None if y is None else to_channels_last(y)
    argmax = None if argmax is None else argmax.contiguous()
    # Where wgrad is not asked for, x was not kept and only its shape counts.
    shaped = grad.new_empty(1).expand(x_size) if x is None else to_channels_last(x)
    grads = chosen.conv3x3_backward(
        to_channels_last(grad),
        shaped,
        w,
        y,
        argmax,
        relu,
        pool,
        (needs[0], needs[1], needs[2]),
    )
    return tuple(absent(grad) if g is None else g for g in grads)  # type: ignore[return-value]


def _backward_fake(
    grad: Tensor,
    x: Tensor | None,
    x_size: list[int],
    w: Tensor,
    y: Tensor | None,
    argmax: Tensor | None,
    relu: bool,
    pool: bool,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c, h, width = x_size
    dx = channels_last_empty(n, c, h, width, grad) if needs[0] else absent(grad)
    dw = grad.new_empty(w.shape) if needs[1] else absent(grad)
    db = grad.new_empty(w.shape[0]) if needs[2] else absent(grad)
    return dx, dw, db


_BACKWARD_OP = define(
    "conv3x3_backward",
    "(Tensor grad, Tensor? x, SymInt[] x_size, Tensor w, Tensor? y, Tensor? argmax, bool relu, "
    "bool pool, bool[] needs, str? backend) -> (Tensor, Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)
_OP = define(
    "conv3x3",
    "(Tensor x, Tensor w, Tensor? b, bool relu, bool pool, bool save_argmax, str? backend) "
    "-> (Tensor, Tensor)",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=ambient_dtype,
)
