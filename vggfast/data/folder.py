"""Photographs in folders: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*, decoded when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from vggfast.data.base import DataSet, Key, Sample, require, spread
from vggfast.data.transforms import EvalTransform, TrainTransform
from vggfast.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")
MEAN_IMAGES = 256  # training images, spread evenly, from which mean and deviation are


@dataclass(frozen=True)
class FolderSamples:
    """Image files with class numbers, decoded and transformed one by one."""

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    transform: TrainTransform | EvalTransform
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __len__(self) -> int:
        return len(self.files)

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        return [((self._image(i, draw) - mean) / std, self.labels[i]) for i, draw in keys]

    def _image(self, index: int, draw: int) -> Tensor:
        pil = require("PIL.Image", "Pillow")
        path = self.files[index]
        try:
            with pil.open(path) as image:
                rgb = image.convert("RGB")
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"data: cannot read image {path} ({reason})") from None
        return self.transform(rgb, draw)


def load_folder(
    root: Path, *, size: int, scale: tuple[int, int], flip: bool, limit: int | None
) -> DataSet:
    """The classes are the folders in ``root``/train, sorted; ``root``/val must have the same.

    Mean and standard deviation per channel are those of the centre crops of up to 256 training
    images.

    Raises:
        InputError: a folder or class is missing or empty, or an image cannot be read.
    """
    require("PIL.Image", "Pillow")
    if not root.is_dir():
        raise InputError(
            f"data: no folder {root}; allowed are digits, mnist:DIR, fashion-mnist:DIR, or a "
            "folder with train/CLASS/* and val/CLASS/*"
        )
    classes = _classes(root / "train")
    other = _classes(root / "val")
    if classes != other:
        odd = sorted(set(classes) ^ set(other))
        raise InputError(
            f"data: {root}/train and {root}/val differ in class {odd[0]!r}; allowed are the same "
            "classes in both"
        )
    files, labels = _files(root / "train", classes)
    kept = spread(len(files), limit)
    centre = EvalTransform(size, scale)
    plain = FolderSamples(tuple(files[i] for i in kept), tuple(labels[i] for i in kept), centre)
    mean, std = _statistics(plain)
    train = replace(plain, transform=TrainTransform(size, scale, flip), mean=mean, std=std)
    return DataSet(
        train, FolderSamples(*_files(root / "val", classes), centre, mean, std), classes, mean, std
    )


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise InputError(f"data: no folder {folder}; allowed is one with a folder for each class")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError(f"data: no class in {folder}; allowed is one folder or more")
    return tuple(names)


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(
                f"data: class {folder / name} is empty; allowed are {', '.join(SUFFIXES)} files"
            )
        files += found
        labels += [number] * len(found)
    return tuple(files), tuple(labels)


def _statistics(samples: FolderSamples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    chosen = spread(len(samples), MEAN_IMAGES)
    sums = torch.zeros(2, 3, dtype=torch.float64)
    for i in chosen:
        ((x, _),) = samples.__getitems__([(i, 0)])
        sums += torch.stack([x.double().mean((1, 2)), x.double().square().mean((1, 2))])
    mean, square = sums / len(chosen)
    std = (square - mean.square()).clamp_min(0).sqrt()
    std[std == 0] = 1  # a channel of one value
    return tuple(mean.tolist()), tuple(std.tolist())
