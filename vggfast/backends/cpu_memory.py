"""Tensors in memory that is kept between calls: fresh pages cost more than the work done in them.

A large tensor from the system is mapped and cleared page by page every time it is made, which takes
a network a tenth of its time. Here its block returns to the extension's pool with the last tensor
that uses it; what is held is what was once in use (csrc/cpu/memory.cpp).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vggfast.backends import native

# Smaller ones come from malloc's heap, which keeps its pages itself.
LEAST_BYTES = 2 << 20

_FILLS: Any = torch.utils.deterministic  # its property is one that annotations do not know


def empty(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised contiguous tensor."""
    return _empty(shape, _contiguous(shape), dtype)


def empty_map(n: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uninitialised channels_last (N, C, H, W) tensor."""
    return _empty((n, c, h, w), (h * w * c, 1, w * c, c), dtype)


def _empty(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_BYTES:
        return torch.empty_strided(shape, strides, dtype=dtype)
    memory = torch.frombuffer(native.module().Memory(-(-size // 4)), dtype=torch.float32)
    # Not a view of `memory`: autograd refuses to change one in place that was made in no_grad mode.
    made = torch.empty(0, dtype=dtype).set_(memory.untyped_storage(), 0, shape, strides)
    if torch.are_deterministic_algorithms_enabled() and _FILLS.fill_uninitialized_memory:
        made.fill_(math.nan)  # as torch.empty does then
    return made


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
