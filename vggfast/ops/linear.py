"""``linear``: fully-connected with bias and ReLU (Simonyan & Zisserman 2014, section 2.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vggfast.backends import Call, Serving
from vggfast.errors import InputError
from vggfast.ops import _check
from vggfast.ops._library import absent, ambient_dtype, define


def linear(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    relu: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Return relu?(x w^T + b), differentiable once.

    Beside a float32 x, w may be bfloat16: stored in half the bytes, for inference. The products and
    sums are those of its values in float32; there is no gradient then.

    Args:
        x: (N, F_in), N >= 0; float16, bfloat16, float32 or float64.
        w: (F_out, F_in), dtype and device of x, or bfloat16 beside a float32 x.
        b: (F_out,) or None.
        relu: apply max(., 0); backward then keeps the output and no map before it.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        y (N, F_out), row-major.

    Raises:
        InputError: a wrong rank, shape, dtype or device.
        BackendError: a forced backend cannot serve the call.
    """
    x, w, b = _check.array("x", x), _check.array("w", w), _check.array("b", b)
    for name, value in (("x", x), ("w", w)) if b is None else (("x", x), ("w", w), ("b", b)):
        _check.tensor(name, value)
    y: Tensor = _OP(x, w, b, relu, backend)
    return y


def _output_size(x: Tensor, w: Tensor, b: Tensor | None) -> tuple[int, int]:
    for name, value in (("x", x), ("w", w)):
        _check.tensor(name, value)
    _check.rank("x", x, "(N, F_in)")
    _check.rank("w", w, "(F_out, F_in)")
    _check.shape("w", w, (w.shape[0], x.shape[1]), f"(F_out, F_in = {x.shape[1]} of x)")
    _check.shape("b", b, (w.shape[0],), "(F_out of w,)")
    if _stored(x, w):
        _check.beside(x, "w", w)
        _check.alike(x, b=b)
    else:
        _check.alike(x, w=w, b=b)
    return x.shape[0], w.shape[0]


def _stored(x: Tensor, w: Tensor) -> bool:
    """Whether w is bfloat16 beside a float32 x."""
    return x.dtype is torch.float32 and w.dtype is torch.bfloat16


def _kernel(x: Tensor, w: Tensor, b: Tensor | None, relu: bool, backend: str | None) -> Tensor:
    _output_size(x, w, b)
    chosen = Serving(Call("linear", x.device.type, x.dtype, x.shape[1], w.shape[0]), backend)
    return chosen.gemm(x.contiguous(), w.contiguous(), None if b is None else b.contiguous(), relu)


def _fake(x: Tensor, w: Tensor, b: Tensor | None, relu: bool, backend: str | None) -> Tensor:
    return x.new_empty(_output_size(x, w, b))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, _, relu, backend = inputs
    ctx.stored = _stored(x, w)
    if ctx.stored:
        return
    x_needs, w_needs, _ = ctx.needs_input_grad[:3]
    ctx.backend = backend
    ctx.save_for_backward(x if w_needs else None, w if x_needs else None, output if relu else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.stored:
        raise InputError(
            "w: got bfloat16 beside a float32 x in a backward pass, allowed is float32: weights "
            "stored in bf16 are for inference"
        )
    x, w, y = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    grads = _BACKWARD_OP(grad, x, w, y, needs, ctx.backend)
    return (*(g if n else None for g, n in zip(grads, needs, strict=True)), None, None)


def _backward_kernel(
    grad: Tensor,
    x: Tensor | None,
    w: Tensor | None,
    y: Tensor | None,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    f_in = x.shape[1] if x is not None else w.shape[1] if w is not None else 0
    chosen = Serving(Call("linear", grad.device.type, grad.dtype, f_in, grad.shape[1]), backend)
    grads = chosen.gemm_backward(
        grad.contiguous(),
        grad if x is None else x.contiguous(),
        grad if w is None else w.contiguous(),
        y,
        (needs[0], needs[1], needs[2]),
    )
    return tuple(absent(grad) if g is None else g for g in grads)  # type: ignore[return-value]


def _backward_fake(
    grad: Tensor,
    x: Tensor | None,
    w: Tensor | None,
    y: Tensor | None,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, f_out = grad.shape
    dx = grad.new_empty((n, w.shape[1])) if needs[0] and w is not None else absent(grad)
    dw = grad.new_empty((f_out, x.shape[1])) if needs[1] and x is not None else absent(grad)
    return dx, dw, grad.new_empty(f_out) if needs[2] else absent(grad)


_BACKWARD_OP = define(
    "linear_backward",
    "(Tensor grad, Tensor? x, Tensor? w, Tensor? y, bool[] needs, str? backend) "
    "-> (Tensor, Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)
_OP = define(
    "linear",
    "(Tensor x, Tensor w, Tensor? b, bool relu, str? backend) -> Tensor",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=ambient_dtype,
)
