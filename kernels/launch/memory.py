"""Layouts in memory: 16-byte rows, descriptors, workspaces."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .. import tiles


def aligned(t: Tensor) -> Tensor:
    """Contiguous ``t`` with its last axis padded with zeros to 16 bytes and its start aligned."""
    short = -t.shape[-1] % unit(t)
    if short:
        return F.pad(t, (0, short))
    return t.clone() if t.data_ptr() % 16 else t


def operand(t: Tensor, tile: tiles.Tile, box: tuple[int, ...]) -> Any:
    """What a kernel takes for ``t``: a TMA descriptor made here, or the tensor for its pointer."""
    return box_operand(t, tile.arch >= 90, box)


def box_operand(t: Tensor, tma: bool, box: tuple[int, ...]) -> Any:
    """A TMA descriptor of ``t`` with a box, or ``t`` itself without ``tma``."""
    return TensorDescriptor(t, list(t.shape), list(t.stride()), list(box)) if tma else t


def unit(t: Tensor) -> int:
    """Elements in 16 bytes."""
    return 16 // t.element_size()


def empty_argmax(y: Tensor) -> Tensor:
    """For y (N, HO, WO, C)."""
    n, h, w, c = y.shape
    return torch.empty((n, h, w, -(-c // 4)), dtype=torch.uint8, device=y.device)


def empty_partial(programs: int, grad: Tensor) -> Tensor:
    return torch.empty((programs, grad.shape[1]), dtype=torch.float32, device=grad.device)
