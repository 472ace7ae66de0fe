"""Networks as other people write them, at their real sizes: what ``vggfast.accelerate`` is for."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def _features(narrow: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    c = 3
    for widths in VGG16:
        for width in widths:
            layers += [nn.Conv2d(c, width // narrow, 3, padding=1), nn.ReLU(inplace=True)]
            c = width // narrow
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """torchvision's vgg16 without dropout, which no two contenders would share."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        c, fc = 512 // narrow, 4096 // narrow
        self.features = _features(narrow)
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
        self.classifier = nn.Sequential(
            nn.Linear(c * 49, fc), nn.ReLU(True), nn.Linear(fc, fc), nn.ReLU(True),
            nn.Linear(fc, 1000),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return y


class LPIPS(nn.Module):
    """Distances of an image and its mirror image on five slices of a VGG-16."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        layers = _features(narrow)
        ends = (4, 9, 16, 23, 30)
        self.slices = nn.ModuleList()
        for start, end in zip((0, *ends), ends, strict=False):
            part = nn.Sequential()
            for i in range(start, end):
                part.add_module(str(i), layers[i])
            self.slices.append(part)
        self.heads = nn.ModuleList(
            nn.Conv2d(widths[-1] // narrow, 1, 1, bias=False) for widths in VGG16
        )

    def forward(self, x: Tensor) -> Tensor:
        y, total = x.flip(3), x.new_zeros(len(x))
        for part, head in zip(self.slices, self.heads, strict=True):
            x, y = part(x), part(y)
            apart = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            total = total + head(apart.square()).mean((1, 2, 3))
        return total


class UNet(nn.Module):
    """VGG-16's convolutions as the encoder; a decoder of 3x3 convolutions, skips by ``cat``."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList()
        layers: list[nn.Module] = []
        for m in _features(narrow):
            if isinstance(m, nn.MaxPool2d):
                self.encoder.append(nn.Sequential(*layers))
                layers = []
            else:
                layers.append(m)
        self.pool = nn.MaxPool2d(2)
        ends = [widths[-1] // narrow for widths in VGG16]
        self.decoder = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(below + skip, skip, 3, padding=1), nn.ReLU(inplace=True),
                nn.Conv2d(skip, skip, 3, padding=1), nn.ReLU(inplace=True),
            )
            for below, skip in zip(ends[:0:-1], ends[-2::-1], strict=True)
        )  # fmt: skip
        self.head = nn.Conv2d(ends[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for i, block in enumerate(self.encoder):
            x = block(x if i == 0 else self.pool(x))
            skips.append(x)
        for block, skip in zip(self.decoder, skips[-2::-1], strict=True):
            up = F.interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([up, skip], 1))
        y: Tensor = self.head(x)
        return y


class SSD(nn.Module):
    """SSD's trunk: a ModuleList up to conv5_3, ceil-mode pool3, then fc6 dilated and fc7."""

    def __init__(self, narrow: int) -> None:
        super().__init__()
        layers = list(_features(narrow))[:-1]
        layers[16] = nn.MaxPool2d(2, 2, ceil_mode=True)
        c, fc = 512 // narrow, 1024 // narrow
        self.vgg = nn.ModuleList([
            *layers, nn.MaxPool2d(3, 1, 1), nn.Conv2d(c, fc, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True), nn.Conv2d(fc, fc, 1), nn.ReLU(inplace=True),
        ])  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.vgg:
            x = layer(x)
        return x


# By name: how it is made, and the height and width of its images.
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], int]] = {
    "vgg16": (VGG, 224),
    "lpips": (LPIPS, 224),
    "unet": (UNet, 224),
    "ssd": (SSD, 300),
}
