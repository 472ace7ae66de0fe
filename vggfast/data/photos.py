"""Photographs as training and validation samples: decoded and cropped one by one, in workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggfast.data.base import BadImageError, DataSet, Key, RawBatch, require, spread
from vggfast.data.colour import Colours, Moments, normalise
from vggfast.data.decode import Photograph
from vggfast.data.loader import Batches
from vggfast.data.source import Photographs, Source, Subset
from vggfast.data.transforms import CentreCrop, TrainCrop, Window
from vggfast.errors import InputError

MEAN_IMAGES = 256  # training images, spread evenly, from which mean and deviation are
ON_BAD_IMAGE = ("fail", "skip")
UNCHANGED = Colours()


@dataclass(frozen=True)
class PhotoSamples:
    """Crops of the images of ``source``.

    With ``skip`` an image that cannot be read is counted and left out, or, with ``replace``, its
    place is taken by the next image of the source that can be, with the same draw; so batches keep
    their sizes, and a run is repeatable. Without ``skip`` it is an error.
    """

    source: Source
    crop: TrainCrop | CentreCrop
    colours: Colours = UNCHANGED
    skip: bool = False
    replace: bool = False

    def __len__(self) -> int:
        return len(self.source.labels)

    def read(self, keys: Sequence[Key]) -> RawBatch:
        pixels, windows, targets = [], [], []
        bad: list[tuple[str, str]] = []
        skipped = 0
        for index, draw in keys:
            for place, i in enumerate(self._candidates(index)):
                skipped += place == 1
                try:
                    window, crop, target = self._cut(i, draw)
                except BadImageError as error:
                    if not self.skip:
                        raise
                    bad.append((self.source.name(i), str(error)))
                    continue
                windows.append(window)
                pixels.append(crop)
                targets.append(target)
                break
            else:
                if self.replace:
                    raise InputError(
                        f"data: none of {len(self)} images can be read, e.g. {bad[-1][0]}"
                    )
                skipped += 1
        size = self.crop.size
        return RawBatch(
            torch.from_numpy(
                np.stack(pixels) if pixels else np.zeros((0, size, size, 3), np.uint8)
            ),
            self._targets(targets),
            torch.tensor([w.flip for w in windows], dtype=torch.bool),
            self.colours.shifts(np.array([w.alphas for w in windows]).reshape(-1, 3)),
            bad,
            skipped,
        )

    def finish(self, raw: RawBatch, device: torch.device) -> Tensor:
        images = raw.images.to(device, non_blocking=True)
        return normalise(images, raw.flips, raw.shifts, self.colours)

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        if self.replace:
            yield from ((index + step) % len(self) for step in range(1, len(self)))

    def _cut(self, i: int, draw: int) -> tuple[Window, np.ndarray, Any]:
        """A crop of image ``i``, where it lies, and what the network is to say of it."""
        photograph = Photograph(self.source.read(i), self.source.place(i))
        window = self.crop.plan(draw, photograph.size)
        return window, photograph.crop(window), self.source.labels[i]

    def _targets(self, targets: list[Any]) -> Tensor:
        """A tensor of what :meth:`_cut` gave for each image of a batch."""
        return torch.tensor(targets, dtype=torch.int64)


def from_photographs(
    photographs: Photographs,
    *,
    size: int,
    scale: tuple[int, int],
    flip: bool,
    limit: int | None = None,
    rgb_shift: str = "none",
    on_bad_image: str = "fail",
    workers: int = 0,
) -> DataSet:
    """A data set of photographs; the arguments are those of :func:`vggfast.data.load`.

    Mean, deviation and principal components of the colours are those of the centre crops of up to
    256 training images.

    Raises:
        InputError: an image cannot be read, and none is to be skipped.
    """
    require("PIL.Image", "Pillow")
    assert photographs.train is not None
    assert photographs.val is not None
    skip = on_bad_image == "skip"
    train = Subset(photographs.train, spread(len(photographs.train.labels), limit))
    centre = CentreCrop(size, scale)
    plain = PhotoSamples(train, centre, skip=skip)
    colours = _colours(plain, rgb_shift, workers)
    return DataSet(
        replace(plain, crop=TrainCrop(size, scale, flip), colours=colours, replace=True),
        PhotoSamples(photographs.val, centre, replace(colours, basis=None), skip),
        photographs.classes,
        colours.mean,
        colours.std,
    )


def _colours(samples: PhotoSamples, rgb_shift: str, workers: int) -> Colours:
    source = Subset(samples.source, spread(len(samples), MEAN_IMAGES))
    batches = Batches(replace(samples, source=source), 16, shuffle=False, workers=workers)
    moments = Moments()
    for raw in batches.raw():
        moments.add(raw.images.numpy())
    if not moments.count:
        name = next(iter(batches.bad))
        raise InputError(
            f"data: none of {len(source.labels)} training images can be read, e.g. {name}"
        )
    return moments.colours(rgb_shift)
