"""What the input pipeline is measured against: the same augmentation in common code.

Both do, for each image: decode, rescale the shorter side to an S drawn from ``scale``, crop,
mirror, convert to floats, shift the colours along their principal components, normalise.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
VALUES = torch.tensor([0.2175, 0.0188, 0.0045]) * 255
VECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class Plain(Dataset[tuple[Tensor, int]]):
    """Pillow and torch, each step on the whole image, one after the other."""

    def __init__(self, root: Path, size: int, scale: tuple[int, int]) -> None:
        self.files = sorted((root / "train").rglob("*.jpg"))
        self.size, self.scale = size, scale
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        with Image.open(self.files[i]) as image:
            return self.augmented(image.convert("RGB")), i % 4

    def augmented(self, image: Image.Image) -> Tensor:
        s = random.randint(*self.scale)
        factor = s / min(image.size)
        w, h = (max(s, round(side * factor)) for side in image.size)
        image = image.resize((w, h), Image.Resampling.BILINEAR)
        left, top = random.randint(0, w - self.size), random.randint(0, h - self.size)
        image = image.crop((left, top, left + self.size, top + self.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()
        x = x + (VECTORS @ (VALUES * torch.randn(3) * 0.1)).view(3, 1, 1)
        return (x - self.mean) / self.std


class Torchvision(Plain):
    """The same by torchvision's transforms. Raises ImportError where it is not installed."""

    def __init__(self, root: Path, size: int, scale: tuple[int, int]) -> None:
        super().__init__(root, size, scale)
        from torchvision import transforms  # type: ignore[import-not-found,unused-ignore]

        self.resize: Any = transforms.functional.resize
        self.rest: Any = transforms.Compose(
            [
                transforms.RandomCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
            ]
        )

    def augmented(self, image: Image.Image) -> Tensor:
        x: Tensor = self.rest(self.resize(image, random.randint(*self.scale)))
        shift = VECTORS @ (VALUES * torch.randn(3) * 0.1)
        return x + (shift / torch.tensor(STD)).view(3, 1, 1)


def loader(samples: Plain, batch: int, workers: int) -> DataLoader[Any]:
    """As a training script has it."""
    return DataLoader(
        samples, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
