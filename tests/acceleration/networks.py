"""Narrow networks as people write them, with nothing of vggfast in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (4, "M", 8, "M", 8, 8, "M", 8, 8, "M", 8, 8, "M")  # VGG-11, narrow


def conv(c_in: int, c_out: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 3, padding=1, **options)


class TorchvisionVGG(nn.Module):
    """torchvision's vgg11 and vgg11_bn."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c = 3
        for width in WIDTHS:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
                continue
            layers.append(conv(c, width))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
            c = width
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Linear(c * 4, 16), nn.ReLU(True), nn.Dropout(0.0), nn.Linear(16, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class Slices(nn.Module):
    """LPIPS' network: slices of a VGG, children by their number in it, and 1x1 heads."""

    def __init__(self) -> None:
        super().__init__()
        vgg = TorchvisionVGG().features
        ends = (2, 5, 10)
        self.N_slices = len(ends)
        start = 0
        for i, end in enumerate(ends, 1):
            part = nn.Sequential()
            for x in range(start, end):
                part.add_module(str(x), vgg[x])
            setattr(self, f"slice{i}", part)
            start = end
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Dropout(0.0), nn.Conv2d(c, 1, 1, bias=False)) for c in (4, 8, 8)
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        out = []
        for i in range(1, self.N_slices + 1):
            x = getattr(self, f"slice{i}")(x)
            out.append(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x))
        for head, a, b in zip(self.heads, self.maps(x), self.maps(x.flip(3)), strict=True):
            total = total + head((a - b).square()).mean((1, 2, 3))
        return total


class UNet(nn.Module):
    """Encoder blocks of a VGG with batch norm, skips, transposed convolutions, 3x3 decoder."""

    def __init__(self) -> None:
        super().__init__()

        def block(c_in: int, c_out: int) -> nn.Sequential:
            return nn.Sequential(
                conv(c_in, c_out, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
                conv(c_out, c_out, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True),
            )  # fmt: skip

        self.down = nn.ModuleList([block(3, 4), block(4, 8)])
        self.pool = nn.MaxPool2d(2)
        self.bottom = block(8, 8)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(8, 8, 2, stride=2), nn.ConvTranspose2d(8, 4, 2, stride=2)]
        )
        self.decode = nn.ModuleList([block(16, 8), block(8, 4)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for up, block, skip in zip(self.up, self.decode, reversed(skips), strict=True):
            x = block(torch.cat([up(x), skip], 1))
        return self.head(x)


class SSD(nn.Module):
    """SSD's VGG: a ModuleList run in forward, ceil-mode pool, dilation, strides, view on maps."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = nn.ModuleList([
            conv(3, 4), nn.ReLU(inplace=True), conv(4, 4), nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2), conv(4, 8), nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2, ceil_mode=True), conv(8, 8), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 8, 3, padding=6, dilation=6), nn.ReLU(inplace=True),
            nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True),
        ])  # fmt: skip
        self.extras = nn.ModuleList([nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1)])
        self.loc = nn.ModuleList([conv(8, 6), conv(8, 6)])

    def forward(self, x: Tensor) -> Tensor:
        sources = []
        for layer in self.vgg:
            x = layer(x)
        sources.append(x)
        for layer in self.extras:
            x = F.relu(layer(x), inplace=True)
        sources.append(x)
        found = [head(s) for head, s in zip(self.loc, sources, strict=True)]
        # A view of a map: channels_last results would make it fail.
        return torch.cat([f.view(f.shape[0], -1) for f in found], 1)


class ContentLoss(nn.Module):
    """Of the style-transfer tutorial: passes its input on and remembers a loss."""

    def __init__(self, target: Tensor) -> None:
        super().__init__()
        self.target = target.detach()
        self.loss = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        maps = x.view(n * c, h * w)
        gram = maps @ maps.t() / maps.numel()
        self.loss = (gram - self.target.to(gram.dtype)).square().mean()
        return x


class StyleTransfer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential()
        for name, m in (
            ("conv_1", conv(3, 4)), ("style_loss_1", ContentLoss(torch.zeros(()))),
            ("relu_1", nn.ReLU(inplace=False)), ("conv_2", conv(4, 8)), ("relu_2", nn.ReLU()),
            ("pool_2", nn.MaxPool2d(2)), ("conv_3", conv(8, 8)),
            ("content_loss_3", ContentLoss(torch.ones(()))), ("relu_3", nn.ReLU()),
        ):  # fmt: skip
            self.model.add_module(name, m)

    def forward(self, x: Tensor) -> Tensor:
        y = self.model(x)
        losses = [m.loss for m in self.model if isinstance(m, ContentLoss)]
        return y.mean() + torch.stack(losses).sum()


def grouped() -> nn.Module:
    """Everything the ops do not compute, between what they do."""
    return nn.Sequential(
        conv(3, 8, bias=False), nn.ReLU(True), conv(8, 8, groups=2), nn.ReLU(True),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2), nn.Conv2d(8, 8, 3, stride=2, padding=1),
        conv(8, 8, padding_mode="reflect"), nn.Conv2d(8, 8, 5, padding=2), conv(8, 8), nn.ReLU(),
        nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 1), nn.ReLU(),
        nn.Dropout2d(0.0), conv(4, 4), nn.Softmax2d(),
    )  # fmt: skip


NETWORKS = {
    "vgg11": TorchvisionVGG,
    "vgg11_bn": lambda: TorchvisionVGG(batch_norm=True),
    "lpips": Slices,
    "unet": UNet,
    "ssd": SSD,
    "style": StyleTransfer,
    "grouped": grouped,
}
