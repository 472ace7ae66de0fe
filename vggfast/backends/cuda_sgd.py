"""The host side of the one-launch SGD kernel (``csrc/cuda/sgd.cuh``)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from torch import Tensor

from vggfast.backends.cuda_launch import TYPES, grid, launch, pack, pointer
from vggfast.errors import InputError

TENSORS, CHUNK = 80, 8192  # kSgdTensors, kSgdChunk
_THREADS, _ENTRY, _HEAD = 256, "=5qIi", "4f2iiI"


class Tensors(NamedTuple):
    """What one parameter's update reads and writes; all dense, of one size."""

    param: Tensor  # float32, updated
    grad: Tensor
    buffer: Tensor | None  # float32, updated; None without momentum
    copy: Tensor | None  # param rounded to the dtype of grad, if that is 16 bits
    first: bool  # the buffer holds nothing yet


class Step(NamedTuple):
    """The constants of an update, as ``torch.optim.SGD`` names them."""

    lr: float
    momentum: float
    dampening: float
    weight_decay: float
    nesterov: bool
    maximize: bool


def update(tensors: list[Tensors], step: Step) -> None:
    """Update parameters whose gradients are on one device and of one dtype.

    One launch for up to 80 parameters, which are all of a VGG.

    Raises:
        InputError: a gradient, a buffer or a copy that is not laid out as its parameter is, or lies
            on another device; nothing is updated then.
    """
    tensors = [t for t in tensors if t.param.numel() > 0]
    for t in tensors:
        _check(t)
    for i in range(0, len(tensors), TENSORS):
        _launch(tensors[i : i + TENSORS], step)


def _check(t: Tensors) -> None:
    wanted = (t.param.shape, t.param.stride(), t.param.device)
    for name in ("grad", "buffer", "copy"):
        other: Tensor | None = getattr(t, name)
        if other is not None and (other.shape, other.stride(), other.device) != wanted:
            raise InputError(
                f"sgd: {name} has shape {tuple(other.shape)} with strides {other.stride()} on "
                f"{other.device}, allowed are those of the parameter, {tuple(t.param.shape)} with "
                f"strides {t.param.stride()} on {t.param.device}"
            )


def _launch(tensors: list[Tensors], step: Step) -> None:
    entries, chunks = bytearray(), 0
    for t in tensors:
        size = t.param.numel()
        entries += struct.pack(
            _ENTRY, pointer(t.param), pointer(t.grad), pointer(t.buffer), pointer(t.copy), size,
            chunks, t.first,
        )  # fmt: skip
        chunks += -(-size // CHUNK)
    head = pack(
        _HEAD, step.lr, step.momentum, 1 - step.dampening, step.weight_decay, step.nesterov,
        step.maximize, len(tensors), chunks,
    )  # fmt: skip
    entries += bytes((TENSORS - len(tensors)) * struct.calcsize(_ENTRY))
    grad = tensors[0].grad
    launch(f"sgd<{TYPES[grad.dtype]}>", grid(chunks, _THREADS), head + bytes(entries), grad)
