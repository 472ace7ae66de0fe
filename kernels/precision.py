"""How the Triton kernels make float32 products: one setting for the process, as torch's own is.

"ieee"    on the ordinary cores, as float32 defines it: 67 TFLOP/s at most on an H100
"tf32x3"  (what holds at first) on the tensor cores, three products of numbers of 11 bits for each
          of float32; what is lost is 2^-21 of a product, which a long sum's own rounding hides
"tf32"    one product of numbers of 11 bits, cut off and not rounded (Hopper's tensor cores read
          float32 so): errors near 1e-3, twice those of a library that rounds
"torch"   "tf32" where torch would use it, else "tf32x3": of convolutions
          ``torch.backends.cudnn.allow_tf32`` decides (on by default), of matrices
          ``torch.backends.cuda.matmul.allow_tf32`` (off by default), or torch's newer
          ``fp32_precision`` of both

The first layer's kernels (at most three channels) always make "ieee" products.

It is no context variable: autograd runs the backward pass of a GPU in threads of its own.
"""

from __future__ import annotations

import torch

MODES = ("torch", "ieee", "tf32x3", "tf32")
_mode = "tf32x3"


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
        return "tf32" if _torch_uses_tf32(matrix) else "tf32x3"
    return _mode


def _torch_uses_tf32(matrix: bool) -> bool:
    """As torch's setting says; reading the older flag raises once the newer one was set."""
    backend = torch.backends.cuda.matmul if matrix else torch.backends.cudnn
    newer = backend if matrix else getattr(backend, "conv", None)
    if hasattr(newer, "fp32_precision"):
        return bool(newer.fp32_precision == "tf32")  # type: ignore[union-attr]
    return bool(backend.allow_tf32)
