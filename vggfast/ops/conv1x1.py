"""``conv1x1``: the 1x1 convolutions of configuration C and of dense evaluation, as a GEMM.

In channels_last memory a map is the matrix (N*H*W, C_in), so no element is moved.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vggfast.backends import Call, Serving
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.ops import _check
from vggfast.ops._library import absent, ambient_dtype, define


def conv1x1(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    relu: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Return relu?(conv(x, w) + b) for 1x1 weights, stride 1, no padding; differentiable once.

    Args:
        x: (N, C_in, H, W), N >= 0, C_in, H, W >= 1; float16, bfloat16, float32 or float64.
        w: (C_out, C_in, 1, 1), dtype and device of x.
        b: (C_out,) or None.
        relu: apply max(., 0).
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        y (N, C_out, H, W), channels_last.

    Raises:
        InputError: a wrong rank, shape, dtype or device.
        BackendError: a forced backend cannot serve the call.
    """
    x, w, b = _check.array("x", x), _check.array("w", w), _check.array("b", b)
    for name, value in (("x", x), ("w", w)) if b is None else (("x", x), ("w", w), ("b", b)):
        _check.tensor(name, value)
    y: Tensor = _OP(x, w, b, relu, backend)
    return y


def _output_size(x: Tensor, w: Tensor, b: Tensor | None) -> tuple[int, int, int, int]:
    for name, value in (("x", x), ("w", w)):
        _check.tensor(name, value)
    _check.rank("x", x, "(N, C_in, H, W)")
    _check.rank("w", w, "(C_out, C_in, 1, 1)")
    _check.map_size("x", x, 1)
    n, c_in, h, width = x.shape
    c_out = w.shape[0]
    _check.shape("w", w, (max(c_out, 1), c_in, 1, 1), f"(C_out >= 1, C_in = {c_in} of x, 1, 1)")
    _check.shape("b", b, (c_out,), "(C_out of w,)")
    _check.alike(x, w=w, b=b)
    return n, c_out, h, width


def _rows(x: Tensor) -> Tensor:
    """The map (N, C, H, W) as its matrix (N*H*W, C); a view where memory is channels_last."""
    return to_channels_last(x).permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _map(rows: Tensor, n: int, h: int, w: int) -> Tensor:
    """The matrix (n*h*w, C) as the map (n, C, h, w) with channels_last strides; a view."""
    c = rows.shape[1]
    return rows.as_strided((n, c, h, w), (h * w * c, 1, w * c, c))


def _kernel(x: Tensor, w: Tensor, b: Tensor | None, relu: bool, backend: str | None) -> Tensor:
    n, c_out, h, width = _output_size(x, w, b)
    chosen = Serving(Call("conv1x1", x.device.type, x.dtype, x.shape[1], c_out), backend)
    bias = None if b is None else b.contiguous()
    return _map(chosen.gemm(_rows(x), w.flatten(1).contiguous(), bias, relu), n, h, width)


def _fake(x: Tensor, w: Tensor, b: Tensor | None, relu: bool, backend: str | None) -> Tensor:
    return channels_last_empty(*_output_size(x, w, b), like=x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, w, _, relu, backend = inputs
    ctx.backend = backend
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, w, output if relu else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, w, y = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    grads = _BACKWARD_OP(grad, x, w, y, needs, ctx.backend)
    return (*(g if n else None for g, n in zip(grads, needs, strict=True)), None, None)


def _backward_kernel(
    grad: Tensor,
    x: Tensor | None,
    w: Tensor,
    y: Tensor | None,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c_out, h, width = grad.shape
    chosen = Serving(Call("conv1x1", grad.device.type, grad.dtype, w.shape[1], c_out), backend)
    rows = _rows(grad)
    dx, dw, db = chosen.gemm_backward(
        rows,
        rows if x is None else _rows(x),
        w.flatten(1).contiguous(),
        None if y is None else _rows(y),
        (needs[0], needs[1], needs[2]),
    )
    return (
        absent(grad) if dx is None else _map(dx, n, h, width),
        absent(grad) if dw is None else dw.reshape(w.shape),
        absent(grad) if db is None else db,
    )


def _backward_fake(
    grad: Tensor,
    x: Tensor | None,
    w: Tensor,
    y: Tensor | None,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c_out, h, width = grad.shape
    return (
        channels_last_empty(n, w.shape[1], h, width, grad) if needs[0] else absent(grad),
        grad.new_empty(w.shape) if needs[1] else absent(grad),
        grad.new_empty(c_out) if needs[2] else absent(grad),
    )


_BACKWARD_OP = define(
    "conv1x1_backward",
    "(Tensor grad, Tensor? x, Tensor w, Tensor? y, bool[] needs, str? backend) "
    "-> (Tensor, Tensor, Tensor)",
    _backward_kernel,
    _backward_fake,
)
_OP = define(
    "conv1x1",
    "(Tensor x, Tensor w, Tensor? b, bool relu, str? backend) -> Tensor",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=ambient_dtype,
)
