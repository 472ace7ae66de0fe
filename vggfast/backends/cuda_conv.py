"""The 3x3 convolution in CUDA C++ for compute capability 9.0 (csrc/cuda/conv3x3_sm90.cu).

bfloat16 and float16, C_in and C_out multiples of 64. The ``cuda`` backend serves it; so does the
``triton`` backend where a table of measured tiles has it: it is offered :func:`run`
(kernels/external.py).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vggfast.backends import cuda_launch, native
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.errors import InputError, LaunchError

_DTYPES = (torch.bfloat16, torch.float16)
# How x lies in shared memory (csrc/common/conv3x3_sm90_layout.h). The two swizzled forms are the
# two readings of the descriptor's base offset; which of them a GPU follows, the tests find out.
FORMS = {"slabs": 0, "swizzled": 1, "swizzled_offset": 2}


def refuse(c_in: int, c_out: int, dtype: torch.dtype) -> str | None:
    """Why this kernel cannot serve such a convolution on any GPU, or None if it can."""
    if dtype not in _DTYPES:
        return f"its dtypes are bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if c_in % 64 or c_out % 64 or c_in == 0 or c_out == 0:
        return f"its channels come in multiples of 64, not C_in={c_in}, C_out={c_out}"
    return None


def unavailable() -> str | None:
    """Why this kernel cannot run on this machine at all, or None.

    NVRTC does not build it: it is launched as clusters, with tensor maps that the host makes.
    """
    if cuda_launch.emulating():
        return "its conv3x3 beyond a first layer is not emulated, it needs a GPU"
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU"
    missing = cuda_launch.why_not_built()
    if missing is not None:
        return f"its conv3x3 beyond a first layer is built by nvcc alone, and {missing}"
    major, minor = torch.cuda.get_device_capability()
    if (major, minor) != (9, 0):
        return (
            "its conv3x3 beyond a first layer needs compute capability 9.0, this GPU has "
            f"{major}.{minor}"
        )
    return None


def packed(w: Tensor, rotated: bool = False) -> Tensor:
    """:func:`pack`, kept for later calls while w stays the same (kernels/kept.py)."""
    kept = importlib.import_module("vggfast.kernels.kept")
    form = ("conv3x3_sm90", rotated)
    rows: Tensor = kept.packed(w, form, lambda w, out: pack(w, rotated, out))
    return rows


def pack(w: Tensor, rotated: bool = False, out: Tensor | None = None) -> Tensor:
    """Weights in the order the kernel copies them: once for each version of a parameter.

    Args:
        w: (C_out, C_in, 3, 3) on the GPU, bfloat16 or float16.
        rotated: pack them for dgrad, the convolution of (N, C_out, H, W) to (N, C_in, H, W).
        out: what an earlier call returned, to be filled again; by default new memory.

    Returns:
        (outputs / B, inputs / 64, 9, 8, B, 8); B = 128, or 64 where 128 does not divide outputs.

    Raises:
        InputError: another shape, dtype or device.
        LaunchError: no GPU of capability 9.0, or the launch failed.
    """
    if w.ndim != 4 or w.shape[2:] != (3, 3):
        raise InputError(f"w: got shape {tuple(w.shape)}, allowed is (C_out, C_in, 3, 3)")
    _check("w", w, w.shape[1], w.shape[0])
    outputs, inputs = (w.shape[1], w.shape[0]) if rotated else (w.shape[0], w.shape[1])
    block = 128 if outputs % 128 == 0 else 64
    size = (outputs // block, inputs // 64, 9, 8, block, 8)
    rows = w.new_empty(size) if out is None else out
    if (rows.shape, rows.dtype, rows.device) != (size, w.dtype, w.device):
        raise InputError(f"out: got shape {tuple(rows.shape)}, allowed is {size}, as w")
    cuda_launch.check("conv3x3_sm90 pack", w, (), (rows,))
    w = w.contiguous()
    _launch(
        "conv3x3_sm90 pack", w,
        partial(
            native.module().cuda_conv3x3_pack,
            w.data_ptr(), rows.data_ptr(), inputs, outputs, rotated,
        ),
    )  # fmt: skip
    return rows


def conv3x3(
    x: Tensor,
    packed: Tensor,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    form: str = "slabs",
    cluster: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """y = pool2x2?(relu?(conv(x, w, stride 1, padding 1) + b)), as ``Backend.conv3x3``.

    Args:
        x: (N, C_in, H, W) on the GPU, bfloat16 or float16; another layout than channels_last costs
            a copy.
        packed: ``pack(w)``, of x's dtype.
        b: (C_out,) of x's dtype, or None.
        save_argmax: with ``pool``, return the packed argmax too (layout: base.py).
        form: a key of ``FORMS``.
        cluster: how many blocks share their weights, 1 or 2; 0: by counted time.

    Returns:
        y (N, C_out, H, W), with ``pool`` (N, C_out, H // 2, W // 2), in channels_last; and the
        argmax or None.

    Raises:
        InputError: what was given does not fit.
        LaunchError: no GPU of capability 9.0, or the launch failed.
    """
    if x.ndim != 4 or x.shape[2] < 1 or x.shape[3] < 1:
        raise InputError(f"x: got shape {tuple(x.shape)}, allowed is (N, C_in, H, W), H, W >= 1")
    if packed.ndim != 6 or packed.shape[2:4] != (9, 8) or not packed.is_contiguous():
        raise InputError(f"packed: got shape {tuple(packed.shape)}, allowed is what pack() returns")
    n, c_in, h, w = x.shape
    c_out = packed.shape[0] * packed.shape[4]
    _check("x", x, c_in, c_out)
    if packed.shape[1] * 64 != c_in:
        raise InputError(f"packed: got weights of {packed.shape[1] * 64} inputs, x has {c_in}")
    for name, t in (("packed", packed), ("b", b)):
        if t is not None and (t.dtype, t.device) != (x.dtype, x.device):
            raise InputError(f"{name}: got {t.dtype} on {t.device}, x is {x.dtype} on {x.device}")
    if b is not None and b.shape != (c_out,):
        raise InputError(f"b: got shape {tuple(b.shape)}, allowed is ({c_out},)")
    if pool and min(h, w) < 2:
        raise InputError(f"pool: x has {h} x {w} pixels, allowed is 2 x 2 and more")
    if form not in FORMS:
        raise InputError(f"form: got {form!r}, allowed are {', '.join(FORMS)}")
    if cluster not in (0, 1, 2):
        raise InputError(f"cluster: got {cluster}, allowed are 0, 1, 2")
    x = to_channels_last(x)
    x = x.clone(memory_format=torch.preserve_format) if x.data_ptr() % 16 else x
    b = None if b is None else b.contiguous()
    h_out, w_out = (h // 2, w // 2) if pool else (h, w)
    y = channels_last_empty(n, c_out, h_out, w_out, x)
    argmax = None
    if pool and save_argmax:
        argmax = torch.empty((n, h_out, w_out, c_out // 4), dtype=torch.uint8, device=x.device)
    cuda_launch.check("conv3x3_sm90", x, (x, y), (packed, b, argmax))
    _launch(
        "conv3x3_sm90", x,
        partial(
            native.module().cuda_conv3x3,
            x.data_ptr(), packed.data_ptr(), cuda_launch.pointer(b), y.data_ptr(),
            cuda_launch.pointer(argmax), n, h, w, c_in, c_out, relu, pool,
            x.dtype is torch.bfloat16, FORMS[form], cluster,
        ),
    )  # fmt: skip
    return y, argmax


def run(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    relu: bool,
    pool: bool,
    save_argmax: bool,
    rotated: bool,
    cluster: int,
) -> tuple[Tensor, Tensor | None]:
    """:func:`conv3x3` of weights as they are, kept packed; the way in for the tile table."""
    return conv3x3(x, packed(w, rotated), b, relu, pool, save_argmax, cluster=cluster)


def _launch(kernel: str, of: Tensor, call: Callable[[int], None]) -> None:
    """``call`` with the stream of the tensor's device; what it refuses names kernel and shape."""
    what = f"{kernel} of {tuple(of.shape)} on {of.device}"
    try:
        with torch.cuda.device(of.device):
            call(torch.cuda.current_stream().cuda_stream)
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error
    except RuntimeError as error:
        raise LaunchError(f"{what}: {error}") from error


def _check(name: str, t: Tensor, c_in: int, c_out: int) -> None:
    if t.device.type != "cuda":
        raise InputError(f"{name}: got a tensor on {t.device}, allowed is a GPU")
    reason = refuse(c_in, c_out, t.dtype)
    if reason is not None:
        raise InputError(f"{name}: this kernel cannot serve it: {reason}")
