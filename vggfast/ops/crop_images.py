"""``crop_images``: the last step of an input pipeline, bytes of images to normalised crops.

Not an op of ``torch.library``: it has no gradient, and its checks read the crops on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vggfast.backends import Call, select
from vggfast.backends.library import CROP
from vggfast.errors import InputError
from vggfast.ops import _check

_LARGEST = 2**31 - 1


def crop_images(
    images: Tensor,
    corners: Tensor | Sequence[Sequence[int]],
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    flips: Tensor | Sequence[bool] | None = None,
    shifts: Tensor | Sequence[Sequence[float]] | None = None,
    offsets: Tensor | Sequence[int] | None = None,
    sizes: Tensor | Sequence[Sequence[int]] | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
) -> Tensor:
    """Return (crop - mean + shift) / std of one crop a row of ``corners``, mirrored where asked.

    Images of one size come as one array; images of several sizes as their bytes one after the other
    with ``offsets`` and ``sizes``. All arguments but ``images`` are small and stay on the CPU.

    Args:
        images: uint8, (N, H, W, 3), or (bytes,) with ``offsets`` and ``sizes``; the crops are made
            on its device.
        corners: (N, 2), y and x of each crop's upper left corner; what lies outside of an image is
            0 in the result, which is the mean colour.
        size: rows and columns of a crop.
        mean, std: of red, green and blue, in units of the bytes.
        flips: (N,), which crops are mirrored left to right; none by default.
        shifts: (N, 3), added to the colours in units of the bytes (the colour shift along principal
            components of Krizhevsky et al. 2012, section 4.1); none by default.
        offsets: (N,), at which byte of ``images`` an image begins; rows lie close together.
        sizes: (N, 2), height and width of each image.
        dtype: of the result: float32, float16 or bfloat16.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        (N, 3, rows, columns), channels_last.

    Raises:
        InputError: a wrong shape, dtype or value, or an image that reaches out of ``images``.
        BackendError: a forced backend cannot serve the call.
    """
    images = _check.array("images", images)
    if not isinstance(images, Tensor) or images.dtype is not torch.uint8:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images: got {got}, allowed is a uint8 tensor")
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise InputError(f"dtype: got {dtype}, allowed are float32, float16, bfloat16")
    if len(size) != 2 or min(size) < 1 or max(size) > _LARGEST // 2:
        raise InputError(f"size: got {tuple(size)}, allowed are rows and columns of at least 1")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != 3 or not np.isfinite(values).all():
            raise InputError(f"{name}: got {tuple(values)}, allowed are three finite numbers")
    if min(std) <= 0:
        raise InputError(f"std: got {tuple(std)}, allowed are three numbers above 0")
    table = _table(images, corners, flips, shifts, offsets, sizes)
    crops = torch.from_numpy(table.view(np.uint8).reshape(len(table), CROP.itemsize))
    chosen = select(Call("crop_images", images.device.type, dtype), backend)
    return chosen.crop_images(
        images.contiguous(), crops.to(images.device), (size[0], size[1]),
        tuple(map(float, mean)), tuple(map(float, std)), dtype,
    )  # fmt: skip


def _table(
    images: Tensor,
    corners: object,
    flips: object | None,
    shifts: object | None,
    offsets: object | None,
    sizes: object | None,
) -> np.ndarray:
    """The crops as structs, found to lie within ``images``."""
    if not hasattr(corners, "__len__"):
        raise InputError(f"corners: got {type(corners).__name__}, allowed is (N, 2)")
    count = len(corners)
    yx = _values("corners", corners, (count, 2), np.int64)
    if images.dim() == 4 and images.shape[3] == 3 and offsets is None and sizes is None:
        if images.shape[0] != count:
            raise InputError(f"corners: got {count} rows, allowed are {images.shape[0]}, as images")
        height, width = (np.full(count, s, np.int64) for s in images.shape[1:3])
        start = np.arange(count) * 3 * height * width
    elif images.dim() == 1 and offsets is not None and sizes is not None:
        start = _values("offsets", offsets, (count,), np.int64)
        height, width = _values("sizes", sizes, (count, 2), np.int64).T
    else:
        raise InputError(
            f"images: got shape {tuple(images.shape)}, allowed are (N, H, W, 3), or (bytes,) with "
            "offsets and sizes"
        )
    if count and (
        min(height.min(), width.min()) < 1 or max(height.max(), width.max()) > _LARGEST // 3
    ):
        raise InputError("sizes: got a height or width out of range, allowed is at least 1")
    most = images.numel()
    # The first two keep the sum from overflowing.
    if count and (
        start.min() < 0 or start.max() > most or (start + 3 * height * width).max() > most
    ):
        raise InputError(f"offsets: an image reaches out of the {most} bytes of images")
    far = _LARGEST // 2
    if count and (yx.min() < -far or yx.max() > far):
        raise InputError(f"corners: got {yx.min()} to {yx.max()}, allowed are {-far} to {far}")
    table = np.zeros(count, CROP)
    table["offset"], table["stride"] = start, 3 * width
    table["height"], table["width"] = height, width
    table["y"], table["x"] = yx.T
    if flips is not None:
        table["flip"] = _values("flips", flips, (count,), np.bool_)
    if shifts is not None:
        table["shift"] = _values("shifts", shifts, (count, 3), np.float32)
    return table


def _values(name: str, given: object, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """``given`` as an array of this shape; bad input is told by its name."""
    if isinstance(given, Tensor) and given.device.type != "cpu":
        raise InputError(f"{name}: got device {given.device}, allowed is cpu")
    array = np.asarray(given)
    if array.size == 0:
        array = array.reshape(shape).astype(dtype) if 0 in shape else array
    if array.shape != shape:
        raise InputError(f"{name}: got shape {array.shape}, allowed is {shape}")
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise InputError(f"{name}: got dtype {array.dtype}, allowed is {np.dtype(dtype)}")
    return array.astype(dtype)
