"""The host side of the data-movement kernels of ``csrc/cuda``: arguments packed, grids counted.

Tensors are checked before. Each function allocates its result, a channels_last map where it is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.backends.base import channels_last_empty, empty_as
from vggfast.backends.cuda_launch import TYPES, aligned, check, grid, launch, pack, pointer

_POOL_THREADS, _ELEMENT_THREADS, _CROP_THREADS, _ROW_THREADS = 256, 256, 128, 256
# wgrad of the first layer: sums of at most this many blocks, whatever the GPU, so that a result
# does not depend on it; a block takes eight segments at least.
_MOST_PARTS, _PART_SEGMENTS = 264, 64
_OUTPUTS = 64  # of a block of the first layer


def _in_16_bytes(dtype: torch.dtype) -> int:
    return 16 // dtype.itemsize


def _name(kernel: str, dtype: torch.dtype, flag: bool | None = None) -> str:
    more = "" if flag is None else f", {str(flag).lower()}"
    return f"{kernel}<{TYPES[dtype]}{more}>"


def _threads(work: int, most: int) -> int:
    """As many threads as there is work for, a multiple of 32."""
    return min(most, -(-max(work, 1) // 32) * 32)


def maxpool2x2(x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
    """y and the packed argmax of ``Backend.maxpool2x2``."""
    n, c, h, w = x.shape
    y = channels_last_empty(n, c, h // 2, w // 2, x)
    argmax = None
    if save_argmax:
        argmax = torch.empty((n, h // 2, w // 2, -(-c // 4)), dtype=torch.uint8, device=x.device)
    if y.numel() > 0:
        _pool("maxpool2x2_forward", x, argmax, y, (n, h, w, c), n * (h // 2), w // 2)
    return y, argmax


def maxpool2x2_backward(grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """dx of ``Backend.maxpool2x2_backward``."""
    n, c = grad.shape[:2]
    dx = channels_last_empty(n, c, height, width, grad)
    if dx.numel() > 0:
        rows, columns = n * -(-height // 2), -(-width // 2)
        _pool("maxpool2x2_backward", grad, argmax, dx, (n, height, width, c), rows, columns)
    return dx


def _pool(
    kernel: str,
    source: Tensor,
    argmax: Tensor | None,
    to: Tensor,
    size: tuple[int, int, int, int],
    rows: int,
    columns: int,
) -> None:
    check(kernel, source, (source, to), (argmax,))
    c, group = size[3], _in_16_bytes(source.dtype)
    wide = c % group == 0 and aligned(source, to)
    work = columns * -(-c // (group if wide else 4))
    params = pack("7q", pointer(source), pointer(argmax), pointer(to), *size)
    name = _name(kernel, source.dtype, wide)
    launch(name, grid(rows, _threads(work, _POOL_THREADS)), params, source)


def lrn(x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """y of ``Backend.lrn``."""
    y = empty_as(x)
    _lrn("lrn_forward", x, None, y, n, (k, alpha, beta))
    return y


def lrn_backward(grad: Tensor, x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
    """dx of ``Backend.lrn_backward``."""
    dx = empty_as(x)
    _lrn("lrn_backward", x, grad, dx, n, (k, alpha, beta))
    return dx


def _lrn(
    kernel: str, x: Tensor, grad: Tensor | None, out: Tensor, n: int, constants: tuple[float, ...]
) -> None:
    c, group = x.shape[1], _in_16_bytes(x.dtype)
    if x.numel() == 0:
        return
    check(kernel, x, (x, grad, out))
    five = n == 5 and c % group == 0 and aligned(x, grad, out)
    threads = x.numel() // (group if five else 1)
    params = pack(
        "6q4f", pointer(x), pointer(grad), pointer(out), x.numel() // c, c, n, *constants, 0.0
    )
    blocks = grid(-(-threads // _ELEMENT_THREADS), _ELEMENT_THREADS)
    launch(_name(kernel, x.dtype, five), blocks, params, x)


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """The mean loss and what backward needs, of ``Backend.cross_entropy``; at least one row."""
    rows, classes = logits.shape
    losses, kept, mean = (torch.empty(s, device=logits.device) for s in ((rows,), (rows, 2), ()))
    params = _cross_entropy(logits, labels, smoothing, losses, kept, mean, None, None)
    blocks = grid(rows, _threads(classes, _ROW_THREADS))
    launch(_name("cross_entropy_forward", logits.dtype), blocks, params, logits)
    launch("cross_entropy_mean", grid(1, _threads(rows, _ROW_THREADS)), params, logits)
    return mean, kept


def cross_entropy_backward(
    grad: Tensor, logits: Tensor, labels: Tensor, kept: Tensor, smoothing: float
) -> Tensor:
    """The logits' gradient of ``Backend.cross_entropy_backward``."""
    out = torch.empty_like(logits)
    params = _cross_entropy(logits, labels, smoothing, None, kept, None, grad, out)
    blocks = grid(logits.shape[0], _threads(logits.shape[1], _ROW_THREADS))
    launch(_name("cross_entropy_backward", logits.dtype), blocks, params, logits)
    return out


def _cross_entropy(
    logits: Tensor, labels: Tensor, smoothing: float, *tensors: Tensor | None
) -> bytes:
    rows, classes = logits.shape
    check("cross_entropy", logits, (), (logits, labels, *tensors))
    addresses = [pointer(t) for t in (logits, labels, *tensors)]
    return pack("9q2f", *addresses, rows, classes, smoothing, 0.0)


def crop_images(
    images: Tensor,
    crops: Tensor,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: torch.dtype,
) -> Tensor:
    """The crops (N, 3, rows, columns) of ``Backend.crop_images``."""
    n, (rows, columns) = crops.shape[0], size
    like = torch.empty(0, dtype=dtype, device=images.device)
    out = channels_last_empty(n, 3, rows, columns, like)
    if out.numel() == 0:
        return out
    check("crop_images", images, (out,), (images, crops))
    pixels = _in_16_bytes(dtype)
    wide = columns % pixels == 0 and aligned(out)
    addresses = (pointer(images), pointer(crops), pointer(out))
    params = pack("6q6f", *addresses, n, rows, columns, *mean, *(1 / s for s in std))
    blocks = grid(n * rows, _threads(-(-columns // pixels), _CROP_THREADS))
    launch(_name("crop_images", dtype, wide), blocks, params, images)
    return out


def first_conv(x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
    """relu?(conv(x, w) + b) for 1 to 3 channels and a multiple of 8 outputs."""
    n, c_in, h, width = x.shape
    c_out = w.shape[0]
    y = channels_last_empty(n, c_out, h, width, x)
    check("first_conv", x, (x, y), (w, b))
    params = _first_conv((x, w, b, y), x, c_out, relu=relu)
    if x.dtype is torch.float32:
        name, pixels, threads = f"first_conv_fma<{c_in}>", 32, 256
    else:
        name, pixels, threads = _name("first_conv_mma", x.dtype), 16, 128
    segments = n * h * -(-width // pixels)
    blocks = min(-(-segments * 32 // threads), 8 * 132)  # weights are read once a block
    launch(name, grid(blocks, threads, -(-c_out // _OUTPUTS)), params, x)
    return y


def first_conv_wgrad(
    grad: Tensor, x: Tensor, y: Tensor | None, c_out: int, dw: bool, db: bool
) -> tuple[Tensor | None, Tensor | None]:
    """dw and db, None where not wanted; ``y`` masks grad where it is <= 0."""
    n, c_in, h, width = x.shape
    fma = x.dtype is torch.float32
    segments = n * h * -(-width // (32 if fma else 16))
    parts = max(1, min(_MOST_PARTS, segments // _PART_SEGMENTS))
    partial = torch.empty((parts, 9 * c_in + 1, c_out), device=x.device)
    out_w = x.new_empty((c_out, c_in, 3, 3)) if dw else None
    out_b = x.new_empty(c_out) if db else None
    check("first_conv_wgrad", x, (x, y, grad), (partial, out_w, out_b))
    params = _first_conv((x, None, None, y, grad, partial, out_w, out_b), x, c_out, parts=parts)
    name = f"first_conv_wgrad_fma<{c_in}>" if fma else _name("first_conv_wgrad_mma", x.dtype)
    launch(name, grid(parts, 256, -(-c_out // _OUTPUTS)), params, x)
    sums = grid(-(-partial[0].numel() // 256), 256)
    launch(_name("first_conv_wgrad_join", x.dtype), sums, params, x)
    return out_w, out_b


def _first_conv(
    tensors: tuple[Tensor | None, ...], x: Tensor, c_out: int, relu: bool = False, parts: int = 0
) -> bytes:
    n, c_in, h, width = x.shape
    addresses = [pointer(t) for t in tensors] + [0] * (8 - len(tensors))
    return pack("15q", *addresses, n, h, width, c_in, c_out, relu, parts)
