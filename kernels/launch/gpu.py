"""The GPU that a launch is for: its generation, its multiprocessors, and how work is shared out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from .. import precision, tiles, tuned
from ..splits import share
from ..table_file import Gpu


@lru_cache(maxsize=16)
def arch(device: torch.device) -> int:
    """The generation whose entries serve the device; sm_120 has only the shared memory of sm_86."""
    if device.type != "cuda":
        return 90
    return 90 if torch.cuda.get_device_capability(device)[0] in (9, 10, 11) else 80


@lru_cache(maxsize=16)
def cores(device: torch.device) -> int:
    if device.type != "cuda":
        return 16  # the interpreter has none; a few splits show that they add up
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def row_share(rows: int, bp: int, device: torch.device) -> tuple[int, int]:
    """Rows a program serves (a multiple of ``bp``) and the number of programs."""
    blocks, programs = share(triton.cdiv(rows, bp), 4 * cores(device))
    return blocks * bp, programs


def on(t: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device and stream: make the tensor's device current."""
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()


_DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@lru_cache(maxsize=16)
def identity(device: torch.device) -> Gpu:
    """What a measured tile is of: compute capability and name; the interpreter has its own."""
    if device.type != "cuda":
        return Gpu("interpreter", "Triton's interpreter")
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(f"{major}.{minor}", torch.cuda.get_device_name(device))


def choose_tile(
    kernel: str,
    x: Tensor,
    pixels: tuple[int, int, int],
    c_out: int,
    c_in: int,
    op: str = "",
    pool: bool = False,
) -> tiles.Tile:
    """The tile for a product on x's device, in x's dtype; see ``tiles.choose`` for the sizes.

    ``op`` is what measured tables know the call by ("dgrad" runs the tiles of "fprop"), the kernel
    itself by default; ``pool`` says that its epilogue pools. See ``tuned.choose`` for the order.
    """
    dtype = _DTYPES.get(x.dtype) or str(x.dtype).removeprefix("torch.")
    bits = 8 * x.element_size()
    # The first layer's kernels know no other products of float32.
    choice = bits == 32 and not kernel.startswith("first")
    ieee = choice and precision.of(x.dtype) == "ieee"
    device = x.device
    return tuned.choose(
        tuned.Query(
            kernel, arch(device), bits, pixels, c_out, c_in, op or kernel, pool, dtype,
            identity(device), ieee,
        )
    )  # fmt: skip
