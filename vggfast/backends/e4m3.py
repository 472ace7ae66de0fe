"""Who serves e4m3: the Triton kernels alone, on GPUs that multiply it. There is no second choice.

``vggfast.reference`` has the same arithmetic in plain torch; nothing falls back to it.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from typing import Any

import torch

from vggfast.backends.triton import TritonBackend
from vggfast.errors import BackendError

_LEAST = 9  # 8.9 multiplies e4m3 too, but has no TMA, by which the kernel reads


def kernels(device: torch.device, dtype: torch.dtype) -> Any:
    """The module with ``conv3x3_e4m3`` and ``quantize_e4m3``, for results in ``dtype``.

    Raises:
        BackendError: e4m3 cannot be served on this device; the message says why.
    """
    reason = why_not(device, dtype)
    if reason is not None:
        raise BackendError(f"e4m3 was asked for on {device}, but {reason}")
    return importlib.import_module("vggfast.kernels.ops")


def why_not(device: torch.device, dtype: torch.dtype = torch.float8_e4m3fn) -> str | None:
    """Why the kernels cannot serve this device, or None if they can."""
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    return _why_not(device, dtype, interpreting)


@lru_cache(maxsize=64)
def _why_not(device: torch.device, dtype: torch.dtype, interpreting: bool) -> str | None:
    unavailable = TritonBackend().unavailable()
    if unavailable is not None:
        return unavailable
    if interpreting:
        if device.type != "cpu":
            return f"TRITON_INTERPRET=1 runs CPU tensors, not {device.type}"
        if dtype is torch.bfloat16:
            return "triton's interpreter rounds bfloat16 wrongly"
        return None
    if device.type != "cuda":
        return f"its kernels run on NVIDIA GPUs, not on {device.type}"
    if torch.version.hip is not None:
        return "its kernels are for NVIDIA GPUs, this torch is built for AMD's"
    major, minor = torch.cuda.get_device_capability(device)
    if major < _LEAST:
        return f"its kernels need compute capability {_LEAST}.0, this GPU has {major}.{minor}"
    return None


def clear_cache() -> None:
    """Forget what was found: for tests that change what a GPU seems to be."""
    _why_not.cache_clear()
