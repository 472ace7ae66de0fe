"""Small grey-scale sets held in memory: images (N, H, W) shown to the network as three channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast.data.base import DataSet, Key, RawBatch, spread


class Arrays(NamedTuple):
    """A part of a set: images (N, H, W), float32, on a 0-255 scale, and labels (N,), int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ArraySamples:
    """Images (N, 1, size, size), float32, normalised, with labels (N,), int64.

    With ``shift`` > 0 an image is moved by up to that many pixels each way, its border repeated;
    with ``flip`` it is mirrored with probability 1/2. Both follow from the draw in the key.
    """

    images: Tensor
    labels: Tensor
    shift: int = 0
    flip: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    # Both in NumPy, in the calling thread alone: for so little work torch's threads would cost more
    # than they do, and much more beside other processes.

    def read(self, keys: Sequence[Key]) -> RawBatch:
        index, draw = np.array(keys, np.int64).reshape(-1, 2).T
        x = self._augment(self.images.numpy()[index, 0], draw)
        return RawBatch(torch.from_numpy(x), torch.from_numpy(self.labels.numpy()[index]))

    def finish(self, raw: RawBatch, device: torch.device) -> Tensor:
        if device.type == "cpu":
            return torch.from_numpy(raw.images.numpy()[..., None].repeat(3, 3)).permute(0, 3, 1, 2)
        x = raw.images.to(device, non_blocking=True)[:, None]
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def _augment(self, x: np.ndarray, draw: np.ndarray) -> np.ndarray:
        """Of images (N, size, size) that are a copy."""
        steps, size = 2 * self.shift + 1, x.shape[-1]
        if self.shift:
            # Row r of the result is row r + step - shift of the image, or the nearest there is.
            span = np.arange(size) - self.shift
            rows = np.clip((draw % steps)[:, None] + span, 0, size - 1)  # (N, size)
            columns = np.clip((draw // steps % steps)[:, None] + span, 0, size - 1)
            x = x[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
        if self.flip:
            mirrored = (draw // steps**2 % 2).astype(bool)
            x[mirrored] = x[mirrored, :, ::-1]
        return x


def from_arrays(
    train: Arrays,
    val: Arrays,
    classes: tuple[str, ...],
    *,
    size: int,
    shift: int,
    flip: bool,
    limit: int | None,
) -> DataSet:
    """A data set from its two parts.

    Images are resized (bilinear) to size x size and normalised with mean and standard deviation
    of the training images that are used.
    """
    kept = spread(len(train.labels), limit)
    x, y = _resize(train.images[kept], size), train.labels[kept]
    deviation, mean = (float(v) for v in torch.std_mean(x.double(), correction=0))
    std = deviation or 1.0  # images of one grey value
    return DataSet(
        ArraySamples((x - mean) / std, y, shift, flip),
        ArraySamples((_resize(val.images, size) - mean) / std, val.labels),
        classes,
        (mean,) * 3,
        (std,) * 3,
    )


def _resize(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images[:, None], (size, size), mode="bilinear", align_corners=False)
