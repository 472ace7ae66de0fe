"""How the Triton kernels make float32 products: one setting for the process, as torch's own is.

"ieee"    on the ordinary cores, as float32 defines it: 67 TFLOP/s at most on an H100
"tf32x3"  on the tensor cores, three products of numbers of 11 bits for each of float32; what is
          lost is 2^-21 of a product, which a long sum's own rounding hides
"tf32"    one product of numbers of 11 bits: errors near 1e-3
"torch"   "tf32" where torch would use it, else "tf32x3": of convolutions
          ``torch.backends.cudnn.allow_tf32`` decides (on by default), of matrices
          ``torch.backends.cuda.matmul.allow_tf32`` (off by default)

It is no context variable: autograd runs the backward pass of a GPU in threads of its own.
"""

from __future__ import annotations

import torch

MODES = ("torch", "ieee", "tf32x3", "tf32")
_mode = "torch"


def get() -> str:
    """The setting, one of ``MODES``."""
    return _mode


def set(mode: str) -> None:
    """Make float32 products as ``mode`` says from now on.

    Raises:
        ValueError: ``mode`` is none of ``MODES``.
    """
    global _mode
    if mode not in MODES:
        raise ValueError(f"mode: got {mode!r}, allowed are {', '.join(MODES)}")
    _mode = mode


def of(dtype: torch.dtype, matrix: bool = False) -> str:
    """Triton's ``input_precision`` for products of ``dtype``; of 16 bits it means nothing.

    ``matrix``: a matrix product, no convolution.
    """
    if dtype is not torch.float32:
        return "ieee"
    if _mode == "torch":
        torchs = torch.backends.cuda.matmul if matrix else torch.backends.cudnn
        return "tf32" if torchs.allow_tf32 else "tf32x3"
    return _mode
