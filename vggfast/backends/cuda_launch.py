"""How a CUDA kernel of ``csrc/cuda`` is launched, by its name and the bytes of its one argument.

Three ways: from the native extension, if it was built with nvcc; compiled at first use by CuPy from
the same sources (``cuda_rtc.py``), also if ``VGGFAST_CUDA_RTC=1`` asks for it; or, with
``VGGFAST_CUDA_EMULATE=1``, on CPU tensors by the extension's emulator, thousands of times slower,
for checking numerics where there is no GPU.
"""

from __future__ import annotations

import importlib.util
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vggfast.backends import cuda_rtc, native
from vggfast.backends.base import Call
from vggfast.errors import InputError, LaunchError

TYPES = {torch.float32: "float", torch.float16: "Float16", torch.bfloat16: "BFloat16"}
_MOST_BLOCKS = 1 << 16  # kernels take what is left in turns


class Grid(NamedTuple):
    """Blocks in x and y, and the threads of each."""

    blocks: int
    threads: int
    blocks_y: int = 1


def grid(blocks: int, threads: int, blocks_y: int = 1) -> Grid:
    """A legal grid of about ``blocks`` blocks of ``threads`` threads, a multiple of 32."""
    return Grid(max(1, min(blocks, _MOST_BLOCKS)), threads, blocks_y)


def emulating() -> bool:
    """Whether the kernels run on CPU tensors."""
    return os.environ.get("VGGFAST_CUDA_EMULATE") == "1"


@lru_cache(maxsize=1)
def _config() -> dict[str, Any]:
    config: dict[str, Any] = native.module().build_config()
    return config


def why_not_built() -> str | None:
    """Why the extension's CUDA kernels are not used, or None if they are."""
    if os.environ.get("VGGFAST_CUDA_RTC") == "1":
        return "VGGFAST_CUDA_RTC=1"
    missing = native.why_missing()
    if missing is not None:
        return missing
    if not _config()["cuda"]:
        return "the native extension was built without CUDA"
    return None


def unavailable() -> str | None:
    """Why no kernel can be launched on this machine, or None."""
    if emulating():
        missing = native.why_missing()
        if missing is not None:
            return missing
        if not _config()["cuda_emulated"]:
            return "VGGFAST_CUDA_EMULATE=1 needs Linux"
        return None
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU (nor VGGFAST_CUDA_EMULATE=1)"
    if torch.version.hip is not None:
        return "its kernels are for NVIDIA GPUs, this torch is built for AMD's"
    not_built = why_not_built()
    if not_built is not None and importlib.util.find_spec("cupy") is None:
        return f"{not_built}, and CuPy, which could compile its kernels, is not installed"
    return None


def refuse(call: Call) -> str | None:
    """Why kernels cannot take the tensors of ``call``, or None."""
    if call.dtype not in TYPES:
        name = str(call.dtype).removeprefix("torch.")
        return f"its kernels take float16, bfloat16 and float32, not {name}"
    if emulating():
        if call.device != "cpu":
            return f"VGGFAST_CUDA_EMULATE=1 runs CPU tensors, not {call.device}"
        return None
    if call.device != "cuda":
        return f"its kernels run on NVIDIA GPUs, not on {call.device}"
    major, minor = torch.cuda.get_device_capability()
    if major < 8:
        return f"its kernels need compute capability 8.0, this GPU has {major}.{minor}"
    return None


def how() -> str:
    """Who makes the kernels that run: for ``explain``."""
    if emulating():
        return "emulated on the CPU"
    if why_not_built() is not None:
        return "compiled by NVRTC through CuPy"
    return f"built by nvcc for {_config()['cuda_targets']}"


def pack(layout: str, *values: float) -> bytes:
    """A kernel's argument: ``struct``'s layout, without padding."""
    return struct.pack("=" + layout, *values)


def pointer(t: Tensor | None) -> int:
    """Address of a tensor's data, 0 for None."""
    return 0 if t is None else t.data_ptr()


def aligned(*tensors: Tensor | None) -> bool:
    """Whether all data begins at multiples of 16 bytes, as 16-byte accesses need."""
    return all(pointer(t) % 16 == 0 for t in tensors)


def check(
    kernel: str, of: Tensor, maps: Sequence[Tensor | None], rows: Sequence[Tensor | None] = ()
) -> None:
    """What a kernel reads and writes by address lies as it expects; None is allowed.

    Args:
        kernel: its name, for the error.
        of: the tensor that the call is about: its device is everybody's, its shape is told.
        maps: (N, C, H, W) in channels_last memory.
        rows: contiguous, of any shape.

    Raises:
        InputError: other strides, another device, or an address that is off an element's size.
    """
    where = "cpu" if emulating() else "cuda"
    asked = [(t, torch.channels_last, "channels_last") for t in maps]
    asked += [(t, torch.contiguous_format, "contiguous") for t in rows]
    for t, layout, allowed in asked:
        if t is None:
            continue
        if t.device.type != where:
            wrong = f"a tensor on {t.device}, allowed is {where}"
        elif t.device != of.device:
            wrong = f"a tensor on {t.device}, allowed is {of.device}"
        elif not t.is_contiguous(memory_format=layout):
            wrong = f"shape {tuple(t.shape)} with strides {t.stride()}, allowed is {allowed} memory"
        elif t.data_ptr() % t.element_size():
            wrong = f"address {t.data_ptr():#x}, allowed are multiples of {t.element_size()} bytes"
        else:
            continue
        raise InputError(f"{kernel} of {tuple(of.shape)}: got {wrong}")


def launch(name: str, grid: Grid, params: bytes, of: Tensor) -> None:
    """Run a kernel on the current stream of the device of ``of``.

    Args:
        name: the kernel with its template arguments, as the sources spell it.
        grid: how many blocks and threads.
        params: the bytes of its argument; what its pointers point to must outlive the call.
        of: the tensor that the call is about.

    Raises:
        LaunchError: it cannot be compiled or launched; no error of CUDA is left for a later call.
    """
    try:
        _launch(name, grid, params, of.device)
    except (RuntimeError, ImportError, OSError, cuda_rtc.CompileError) as error:
        # The middle two: CuPy finds no CUDA, the sources are missing, its cache cannot be written.
        raise LaunchError(f"{name} of {tuple(of.shape)} on {of.device}: {error}") from error


def _launch(name: str, grid: Grid, params: bytes, device: torch.device) -> None:
    if emulating():
        native.module().cuda_emulate(
            name, grid.blocks, grid.blocks_y, grid.threads, params, _backwards()
        )
        return
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        if why_not_built() is None:
            native.module().cuda_launch(
                name, grid.blocks, grid.blocks_y, grid.threads, params, stream
            )
        else:
            cuda_rtc.launch(name, (grid.blocks, grid.blocks_y), grid.threads, params, stream)


def _backwards() -> bool:
    """Whether emulated threads take their turns from the last to the first: for tests."""
    return os.environ.get("VGGFAST_CUDA_EMULATE_BACKWARDS") == "1"
