"""Small grey-scale sets held in memory: images (N, H, W) shown to the network as three channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

    def read(self, keys: Sequence[Key]) -> RawBatch:
        index, draw = torch.tensor(keys, dtype=torch.int64).view(-1, 2).unbind(1)
        return RawBatch(self._augment(self.images[index], draw), self.labels[index])

    def finish(self, raw: RawBatch, device: torch.device) -> Tensor:
        x = raw.images.to(device, non_blocking=True)
        return x.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)

    def _augment(self, x: Tensor, draw: Tensor) -> Tensor:
        steps, size = 2 * self.shift + 1, x.shape[-1]
        if self.shift:
            padded = F.pad(x, (self.shift,) * 4, mode="replicate")
            span = torch.arange(size)
            rows = (draw % steps)[:, None] + span  # (N, size)
            columns = (draw // steps % steps)[:, None] + span
            image = torch.arange(len(x))[:, None, None]
            x = padded[:, 0][image, rows[:, :, None], columns[:, None, :]][:, None]
        if self.flip:
            mirrored = (draw // steps**2 % 2).bool()
            x = torch.where(mirrored[:, None, None, None], x.flip(-1), x)
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
