"""FC layers in memory that the system may map in large pages.

Their weights are most of a network's bytes, and at small batches their way from memory is the time.
With several images a kernel reads some thousand bytes of a row and goes on in the next one, a
hundred thousand bytes further: with pages of 4 KB each row asks the page tables anew (docs/cpu.md
has the times). Linux maps large pages where it is asked to before the memory is first written.
"""

from __future__ import annotations

import ctypes
import mmap
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

# Of a tensor; a smaller one would hardly fill a large page.
LEAST_BYTES = 8 << 20


def linear(inputs: int, outputs: int) -> nn.Linear:
    """An ``nn.Linear`` on torch's default device, not initialised, in large pages if possible."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, device=torch.get_default_device())
    advise(layer.weight)
    return layer


def advise_all(model: nn.Module) -> None:
    """:func:`advise` for each parameter of a model that ``to_empty`` has just given memory."""
    for parameter in model.parameters():
        advise(parameter)


def advise(tensor: Tensor) -> bool:
    """Ask for large pages below a tensor whose memory was not written yet; whether they may come.

    It is no more than advice: nothing happens on other systems, on GPUs, for small tensors, or
    where ``/sys/kernel/mm/transparent_hugepage/enabled`` says never.
    """
    size = tensor.numel() * tensor.element_size()
    madvise = _madvise()
    # A fake tensor has no memory, though its device is the CPU.
    real = type(tensor.detach()) is Tensor and tensor.device.type == "cpu"
    if madvise is None or not real or size < LEAST_BYTES:
        return False
    # Whole pages within it: what lies before and behind belongs to others.
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
    return bool(madvise(begin, end - begin, mmap.MADV_HUGEPAGE) == 0)


@lru_cache(maxsize=1)
def _madvise() -> Any:
    """The system's call; None where there are no such pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    call = ctypes.CDLL(None, use_errno=True).madvise
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    call.restype = ctypes.c_int
    return call
