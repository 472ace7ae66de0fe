"""Small grey-scale sets held in memory: images (N, H, W) shown to the network as three channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast.data.base import DataSet, Key, Sample, spread


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

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        index, draw = torch.tensor(keys, dtype=torch.int64).unbind(1)
        x = self._augment(self.images[index], draw).expand(-1, 3, -1, -1)
        return list(zip(x.unbind(), self.labels[index].tolist(), strict=True))

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
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    classes: tuple[str, ...],
    *,
    size: int,
    shift: int,
    flip: bool,
    limit: int | None,
) -> DataSet:
    """A data set from images (N, H, W) on a 0-255 scale and labels (N,).

    Images are resized (bilinear) to size x size and normalised with mean and standard deviation
    of the training images that are used.
    """
    kept = spread(len(train[1]), limit)
    x, y = _resize(train[0][kept], size), train[1][kept]
    deviation, mean = (float(v) for v in torch.std_mean(x.double(), correction=0))
    std = deviation or 1.0  # images of one grey value
    return DataSet(
        ArraySamples((x - mean) / std, y, shift, flip),
        ArraySamples((_resize(val[0], size) - mean) / std, val[1]),
        classes,
        (mean,) * 3,
        (std,) * 3,
    )


def _resize(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images[:, None], (size, size), mode="bilinear", align_corners=False)
