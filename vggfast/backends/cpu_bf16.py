"""bfloat16 on the CPU: the forward pass on AMX or AVX512-BF16, gradients by torch's library.

Sums run in float32 over all taps and channels and are rounded once, after bias and ReLU. What a
pool compares is rounded, so that its argmax agrees with what is stored.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.backends import cpu_weights, native
from vggfast.backends.cpu_memory import empty, empty_map

# The FC kernels read the weights once, whatever the batch; above this torch's GEMM is faster.
MOST_ROWS = 12


def conv3x3(
    x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, argmax: Tensor | None
) -> Tensor:
    """As ``Backend.conv3x3``; ``argmax`` is written where it is given."""
    (n, c_in, h, width), c_out = x.shape, w.shape[0]
    rows, columns = (h // 2, width // 2) if pool else (h, width)
    y = empty_map(n, c_out, rows, columns, torch.bfloat16)
    threads = torch.get_num_threads()
    packed = cpu_weights.packed_bf16(w, threads)
    native.module().bf16_conv3x3(
        x.data_ptr(), w.data_ptr(), pointer(packed), pointer(b), y.data_ptr(), pointer(argmax),
        n, h, width, c_in, c_out, relu, pool, threads,
    )  # fmt: skip
    return y


def linear(x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
    """relu?(x w^T + b) for a batch of at most ``MOST_ROWS``."""
    (m, k), o = x.shape, w.shape[0]
    b = None if b is None else b.contiguous()
    y = empty((m, o), torch.bfloat16)
    native.module().bf16_linear(
        x.data_ptr(), w.data_ptr(), pointer(b), y.data_ptr(), m, k, o, relu,
        torch.get_num_threads(),
    )  # fmt: skip
    return y


def pointer(t: Tensor | None) -> int:
    """What the extension takes for a tensor that may be absent."""
    return 0 if t is None else t.data_ptr()
