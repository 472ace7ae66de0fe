"""``lrn``: local response normalisation across channels (Krizhevsky et al. 2012, section 3.3).

s_c = k + alpha * sum over the n channels around c of a^2;  y_c = a_c * s_c^(-beta)

dL/da_c = g_c s_c^(-beta) - 2 alpha beta a_c * sum over the channels d whose window holds c of
g_d a_d s_d^(-beta - 1). Backward keeps the input alone and computes s again.

torch's ``local_response_norm`` divides alpha by n; this op takes alpha as the formula has it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vggfast.backends import Backend, Call, select
from vggfast.backends.base import empty_as, to_channels_last
from vggfast.errors import InputError
from vggfast.ops import _check
from vggfast.ops._library import define, full_precision


def lrn(
    x: Tensor,
    n: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    *,
    backend: str | None = None,
) -> Tensor:
    """Return x / (k + alpha * sum of squares over n channels)^beta, differentiable once.

    Args:
        x: (N, C, H, W), N >= 0, C, H, W >= 1; float16, bfloat16, float32 or float64. Sums run in
            float32 at least.
        n: channels in the window, >= 1; an even window reaches one further down, as torch's.
        k, alpha, beta: the constants of the formula; the defaults are the paper's.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        y (N, C, H, W), channels_last, dtype of x (float32 inside ``torch.autocast``).

    Raises:
        InputError: a wrong rank, dtype or window.
        BackendError: a forced backend cannot serve the call.
    """
    x = _check.array("x", x)
    _check.tensor("x", x)
    y: Tensor = _OP(x, n, float(k), float(alpha), float(beta), backend)
    return y


def _checked(x: Tensor, n: int) -> None:
    _check.tensor("x", x)
    _check.rank("x", x, "(N, C, H, W)")
    _check.map_size("x", x, 1)
    if n < 1:
        raise InputError(f"n: got {n}, allowed is a window of at least 1 channel")


def _kernel(x: Tensor, n: int, k: float, alpha: float, beta: float, backend: str | None) -> Tensor:
    _checked(x, n)
    return _chosen(x, backend).lrn(to_channels_last(x), n, k, alpha, beta)


def _chosen(x: Tensor, backend: str | None) -> Backend:
    return select(Call("lrn", x.device.type, x.dtype, x.shape[1], x.shape[1]), backend)


def _fake(x: Tensor, n: int, k: float, alpha: float, beta: float, backend: str | None) -> Tensor:
    _checked(x, n)
    return empty_as(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, *ctx.constants = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _BACKWARD_OP(grad, *ctx.saved_tensors, *ctx.constants), *(None,) * 5


def _backward_kernel(
    grad: Tensor, x: Tensor, n: int, k: float, alpha: float, beta: float, backend: str | None
) -> Tensor:
    return _chosen(x, backend).lrn_backward(
        to_channels_last(grad), to_channels_last(x), n, k, alpha, beta
    )


def _backward_fake(
    grad: Tensor, x: Tensor, n: int, k: float, alpha: float, beta: float, backend: str | None
) -> Tensor:
    return empty_as(x)


_BACKWARD_OP = define(
    "lrn_backward",
    "(Tensor grad, Tensor x, int n, float k, float alpha, float beta, str? backend) -> Tensor",
    _backward_kernel,
    _backward_fake,
)
_OP = define(
    "lrn",
    "(Tensor x, int n, float k, float alpha, float beta, str? backend) -> Tensor",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=full_precision,
)
