"""Argument checks of the ops: one line that names the argument, what was given, what is allowed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggfast.errors import InputError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def array(name: str, value: Any) -> Any:
    """``value``, or the tensor that shares its memory if it is another library's array.

    Any array with ``__dlpack__`` (NumPy, CuPy, JAX) enters so, with no copy; but a read-only one of
    NumPy is copied, since torch knows no read-only tensors. What is no array is left for
    :func:`tensor` to refuse. A tensor passes through, so ``torch.compile`` sees nothing of this.
    """
    if isinstance(value, Tensor) or not hasattr(value, "__dlpack__"):
        return value
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()
    try:
        return torch.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: got {type(value).__name__}, which torch cannot take over ({error})"
        ) from None


def tensor(name: str, value: object) -> None:
    """``value`` is a tensor of a floating dtype the ops know."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: got {type(value).__name__}, allowed is a torch.Tensor")
    if value.dtype not in DTYPES:
        raise InputError(
            f"{name}: got dtype {value.dtype}, allowed are "
            + ", ".join(str(d).removeprefix("torch.") for d in DTYPES)
        )


def rank(name: str, value: Tensor, dims: str) -> None:
    """``value`` has as many dimensions as ``dims`` names, such as "(N, C, H, W)"."""
    wanted = dims.count(",") + 1
    if value.dim() != wanted:
        raise InputError(f"{name}: got shape {tuple(value.shape)}, allowed is {wanted}-D {dims}")


def map_size(name: str, value: Tensor, smallest: int) -> None:
    """Channels and the spatial size of the map (N, C, H, W) are at least 1 and ``smallest``."""
    _, c, h, w = value.shape
    if c < 1 or h < smallest or w < smallest:
        raise InputError(
            f"{name}: got shape {tuple(value.shape)}, allowed are C >= 1 and H, W >= {smallest}"
        )


def alike(x: Tensor, **others: Tensor | None) -> None:
    """All given tensors share the dtype and the device of ``x``."""
    for name, value in others.items():
        if value is None:
            continue
        if value.dtype != x.dtype:
            raise InputError(f"{name}: got dtype {value.dtype}, allowed is {x.dtype}, as x has")
        beside(x, name, value)


def beside(x: Tensor, name: str, value: Tensor, as_name: str = "x") -> None:
    """``value`` is on the device of ``x``, which the caller knows as ``as_name``."""
    if value.device != x.device:
        raise InputError(
            f"{name}: got device {value.device}, allowed is {x.device}, as {as_name} has"
        )


def shape(name: str, value: Tensor | None, wanted: tuple[int, ...], meaning: str) -> None:
    """``value`` (if given) has exactly the shape ``wanted``."""
    if value is not None and tuple(value.shape) != wanted:
        raise InputError(f"{name}: got shape {tuple(value.shape)}, allowed is {wanted}, {meaning}")
