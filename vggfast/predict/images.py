"""What a predictor is given, as tensors: files, PIL images, and arrays with ``__dlpack__``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggfast.data.base import BadImageError
from vggfast.data.decode import Photograph
from vggfast.errors import InputError
from vggfast.ops import _check

ALLOWED = (
    "allowed are uint8 (H, W, 3) or (N, H, W, 3), and floating (3, H, W) or (N, 3, H, W) with H, W "
    ">= 32 that are normalised already"
)


def groups(images: Any) -> Iterator[Tensor]:
    """The images as tensors of one or several alike, (N, H, W, 3) uint8 or (N, 3, H, W) floating.

    Files and PIL images are read one at a time, when they are asked for. An array shares its
    memory, but for a read-only one of NumPy.

    Raises:
        InputError: what is no image; of several, the message says which.
    """
    if not isinstance(images, (list, tuple)):
        yield _group("images", images)
        return
    for i, image in enumerate(images):
        group = _group(f"images[{i}]", image)
        if len(group) != 1:
            raise InputError(f"images[{i}]: got {len(group)} images, allowed is one in a list")
        yield group


def _group(name: str, image: Any) -> Tensor:
    if isinstance(image, (str, os.PathLike)):
        return _file(name, Path(image))
    if hasattr(image, "convert") and not hasattr(image, "__dlpack__"):
        return _pil(image)
    x = _check.array(name, image)
    if not isinstance(x, Tensor):
        raise InputError(
            f"{name}: got {type(image).__name__}, allowed are a path, a PIL image, and an array "
            "with __dlpack__"
        )
    if x.dtype is torch.uint8:
        right = x.dim() in (3, 4) and x.shape[-1] == 3 and min(x.shape[-3:-1]) >= 1
        batched = x.dim() == 4
    else:
        right = x.dim() in (3, 4) and x.shape[-3] == 3 and min(x.shape[-2:]) >= 32
        right, batched = right and x.is_floating_point(), x.dim() == 4
    if not right:
        kind = str(x.dtype).removeprefix("torch.")
        raise InputError(f"{name}: got {kind} of shape {tuple(x.shape)}, {ALLOWED}")
    return x if batched else x.unsqueeze(0)


def _file(name: str, path: Path) -> Tensor:
    try:
        return _pil(Photograph(path.read_bytes(), str(path)).rgb())
    except OSError as error:
        raise InputError(
            f"{name}: got {str(path)!r}, allowed is an image file ({error.strerror or error})"
        ) from None
    except BadImageError as error:
        reason = str(error).removeprefix(f"data: cannot read image {path} ")  # named here already
        raise InputError(f"{name}: got {str(path)!r}, allowed is an image file {reason}") from None


def _pil(image: Any) -> Tensor:
    """(1, H, W, 3) uint8, RGB."""
    return torch.from_numpy(np.array(image.convert("RGB"))).unsqueeze(0)
