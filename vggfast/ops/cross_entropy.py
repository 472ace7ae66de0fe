"""``cross_entropy``: softmax and cross-entropy in one, the mean over the rows.

loss = -mean over rows of sum_k q_k log softmax(x)_k,  q_k = e / K + (1 - e) [k = label]

Backward keeps the logits and two numbers a row. It multiplies by the upstream gradient before it
rounds to 16 bits, so that a scaled loss (``torch.amp.GradScaler``) keeps small probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vggfast.backends import Backend, Call, select
from vggfast.errors import InputError
from vggfast.ops import _check
from vggfast.ops._library import define


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: float = 0.0,
    backend: str | None = None,
) -> Tensor:
    """Return the mean softmax cross-entropy, differentiable once.

    As ``torch.nn.functional.cross_entropy`` with class indices, but for three points: a label
    outside 0 ... K - 1 makes the loss, and the gradient of its row, NaN (torch stops the program
    on a GPU, raises on a CPU, and ignores -100); the result is float32 for 16-bit logits; one row
    at least.

    Args:
        logits: (N, K), N, K >= 1; float16, bfloat16, float32 or float64. Sums run in float32 at
            least, autocast or not.
        labels: (N,), int64, device of logits.
        label_smoothing: e of the formula, 0 to 1.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        The mean loss, (), float32, or float64 for such logits.

    Raises:
        InputError: a wrong rank, shape, dtype, device or smoothing.
        BackendError: a forced backend cannot serve the call.
    """
    logits, labels = _check.array("logits", logits), _check.array("labels", labels)
    _check.tensor("logits", logits)
    loss: Tensor = _OP(logits, labels, float(label_smoothing), backend)[0]
    return loss


def _checked(logits: Tensor, labels: Tensor, smoothing: float) -> torch.dtype:
    """Check the arguments and return the dtype of the loss."""
    _check.tensor("logits", logits)
    _check.rank("logits", logits, "(N, K)")
    if logits.shape[0] < 1 or logits.shape[1] < 1:
        raise InputError(f"logits: got shape {tuple(logits.shape)}, allowed are N, K >= 1")
    if labels.dtype is not torch.int64:
        raise InputError(f"labels: got dtype {labels.dtype}, allowed is int64")
    _check.shape("labels", labels, (logits.shape[0],), "(N of logits,)")
    _check.beside(logits, "labels", labels, "logits")
    if not 0 <= smoothing <= 1:
        raise InputError(f"label_smoothing: got {smoothing}, allowed are 0 to 1")
    return torch.float64 if logits.dtype is torch.float64 else torch.float32


def _chosen(logits: Tensor, backend: str | None) -> Backend:
    classes = logits.shape[1]
    call = Call("cross_entropy", logits.device.type, logits.dtype, classes, classes)
    return select(call, backend)


def _kernel(
    logits: Tensor, labels: Tensor, smoothing: float, backend: str | None
) -> tuple[Tensor, Tensor]:
    _checked(logits, labels, smoothing)
    return _chosen(logits, backend).cross_entropy(
        logits.contiguous(), labels.contiguous(), smoothing
    )


def _fake(
    logits: Tensor, labels: Tensor, smoothing: float, backend: str | None
) -> tuple[Tensor, Tensor]:
    dtype = _checked(logits, labels, smoothing)
    return logits.new_empty((), dtype=dtype), logits.new_empty((logits.shape[0], 2), dtype=dtype)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, ctx.smoothing, ctx.backend = inputs
    ctx.save_for_backward(logits, labels, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    return _BACKWARD_OP(grad, *ctx.saved_tensors, ctx.smoothing, ctx.backend), None, None, None


def _backward_kernel(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    kept: Tensor,
    smoothing: float,
    backend: str | None,
) -> Tensor:
    return _chosen(logits, backend).cross_entropy_backward(
        grad.contiguous(), logits.contiguous(), labels.contiguous(), kept.contiguous(), smoothing
    )


def _backward_fake(
    grad: Tensor,
    logits: Tensor,
    labels: Tensor,
    kept: Tensor,
    smoothing: float,
    backend: str | None,
) -> Tensor:
    return logits.new_empty(logits.shape)


_BACKWARD_OP = define(
    "cross_entropy_backward",
    "(Tensor grad, Tensor logits, Tensor labels, Tensor kept, float smoothing, str? backend) "
    "-> Tensor",
    _backward_kernel,
    _backward_fake,
)
_OP = define(
    "cross_entropy",
    "(Tensor logits, Tensor labels, float smoothing, str? backend) -> (Tensor, Tensor)",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
)
