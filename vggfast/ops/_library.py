"""How an op enters torch: schema, kernel, fake kernel, autograd and autocast rule in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

LIBRARY = torch.library.Library("vggfast", "DEF")
_AUTOCAST_KEYS = {"cpu": "AutocastCPU", "cuda": "AutocastCUDA"}


def define(
    name: str,
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
    autocast: Callable[[str], torch.dtype] | None = None,
) -> Any:
    """Register ``vggfast::name`` and return its callable overload.

    Args:
        name: the op's name.
        schema: its arguments and results, as ``torch.library`` writes them.
        kernel: the real implementation; it picks a backend by its inputs.
        fake: shapes, strides and dtypes only, for ``torch.compile`` and ``torch.export``.
        setup_context: what the forward pass keeps for the backward one.
        backward: the gradient formula; without one the op cannot be differentiated. What it
            returns cannot be differentiated again: that is an error.
        autocast: the dtype that tensors are cast to inside ``torch.autocast``, by device type.
    """
    LIBRARY.define(f"{name}{schema}")
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    qualified = f"vggfast::{name}"
    torch.library.register_fake(qualified, fake, lib=LIBRARY)
    if backward is not None:
        torch.library.register_autograd(
            qualified, _once(qualified, backward), setup_context=setup_context, lib=LIBRARY
        )
    op = getattr(torch.ops.vggfast, name).default
    if autocast is not None:
        for device, key in _AUTOCAST_KEYS.items():
            LIBRARY.impl(name, _autocast_kernel(op, device, key, autocast), key)
    return op


def _once(name: str, backward: Callable[..., Any]) -> Callable[..., Any]:
    """``backward`` with results that raise an error where someone differentiates them.

    torch alone would take them for constants: a penalty on gradients would train nothing.
    """
    message = (
        f"{name} is differentiable once, and a second derivative was asked for; torch's own layers "
        "have one (vggfast.restore(model) puts them back)"
    ).encode()

    def refused(grad: Tensor) -> Any:
        return torch._C._functions.DelayedError(message, 1)(grad.detach().requires_grad_())

    def once(ctx: Any, *grads: Any) -> Any:
        found = backward(ctx, *grads)
        # Gradients are on in a backward pass with create_graph=True, and in no other.
        return tree_map_only(Tensor, refused, found) if torch.is_grad_enabled() else found

    return once


def ambient_dtype(device: str) -> torch.dtype:
    """Autocast rule of the matrix ops: the region's own low-precision dtype."""
    return torch.get_autocast_dtype(device)


def full_precision(device: str) -> torch.dtype:
    """Autocast rule of ops whose sums need it: float32."""
    return torch.float32


def _autocast_kernel(
    op: Any, device: str, key: str, rule: Callable[[str], torch.dtype]
) -> Callable[..., Any]:
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return [cast(v, dtype) for v in value]
        # The same tensors torch's own rules take: floating point, on this device, not float64.
        if (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.device.type == device
            and value.dtype is not torch.float64
        ):
            return value.to(dtype)
        return value

    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = rule(device)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(
                *(cast(a, dtype) for a in args), **{k: cast(v, dtype) for k, v in kwargs.items()}
            )

    return kernel


def absent(like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """An empty tensor in place of a result not asked for: schemas have no optional result."""
    return torch.empty(0, dtype=like.dtype if dtype is None else dtype, device=like.device)
