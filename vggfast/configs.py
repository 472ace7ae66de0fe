"""The one table of layer shapes: configurations A to E of Simonyan & Zisserman 2014, table 1.

Models, benchmarks and tests all read their shapes from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vggfast.errors import InputError

Item = int | str | tuple[int, int]

# An int n is a 3x3 convolution with n outputs, (n, 1) a 1x1 one; each is followed by a ReLU.
# "M" is a 2x2 max-pool with stride 2, "LRN" local response normalisation.
_A = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")
CONFIGS: dict[str, tuple[Item, ...]] = {
    "A": _A,
    "A-LRN": (64, "LRN", *_A[1:]),
    "B": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "C": (64, 64, "M", 128, 128, "M", 256, 256, (256, 1), "M",
          512, 512, (512, 1), "M", 512, 512, (512, 1), "M"),
    "D": (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"),
    "E": (64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"),
}  # fmt: skip

NETS: tuple[str, ...] = tuple(CONFIGS)
DOWNSAMPLING = 32  # five 2x2 pools
FC_WIDTH = 4096


@dataclass(frozen=True)
class Layer:
    """One fused layer of a network at a given input size.

    ``h``, ``w`` are the layer's *input* rows and columns; a convolution keeps them, a pool halves
    them (floor). ``pool`` says that the 2x2 max-pool which follows is part of this layer.
    """

    name: str
    op: Literal["conv3x3", "conv1x1", "lrn", "maxpool2x2", "linear"]
    c_in: int
    c_out: int
    h: int
    w: int
    relu: bool = False
    pool: bool = False

    @property
    def flop(self) -> int:
        """Floating-point operations of one image's forward pass (a multiply-add counts 2)."""
        taps = {"conv3x3": 9, "conv1x1": 1, "linear": 1}.get(self.op, 0)
        return 2 * taps * self.c_in * self.c_out * self.h * self.w


def check_net(net: str) -> str:
    """Return ``net`` if it names a configuration, else raise :class:`InputError`."""
    if net not in CONFIGS:
        raise InputError(f"net: got {net!r}, allowed are {', '.join(NETS)}")
    return net


def conv_layers(net: str, height: int = 224, width: int | None = None) -> list[Layer]:
    """The fused layers of the convolutional stack, for an input of height x width.

    Names follow the paper's stages: ``conv3_2`` is the second convolution of the third stage.
    A pool is fused into the convolution before it, except after LRN, where it stands alone.
    """
    h, w = height, height if width is None else width
    return list(_walk(CONFIGS[check_net(net)], h, w))


def _walk(items: tuple[Item, ...], h: int, w: int) -> Iterator[Layer]:
    stage, number, c_in = 1, 1, 3
    for i, item in enumerate(items):
        following = items[i + 1] if i + 1 < len(items) else None
        if item == "M":
            if items[i - 1] == "LRN":
                yield Layer(f"pool{stage}", "maxpool2x2", c_in, c_in, h, w, pool=True)
            stage, number, h, w = stage + 1, 1, h // 2, w // 2
        elif item == "LRN":
            yield Layer(f"lrn{stage}", "lrn", c_in, c_in, h, w)
        else:
            c_out, kernel = item if isinstance(item, tuple) else (int(item), 3)
            op: Literal["conv3x3", "conv1x1"] = "conv3x3" if kernel == 3 else "conv1x1"
            yield Layer(
                f"conv{stage}_{number}", op, c_in, c_out, h, w, relu=True, pool=following == "M"
            )
            c_in, number = c_out, number + 1


def fc_layers(num_classes: int = 1000, crop: int = 224) -> list[Layer]:
    """fc6, fc7 and fc8 of a network whose last map is (crop / 32) x (crop / 32)."""
    window = crop // DOWNSAMPLING
    widths = (512 * window * window, FC_WIDTH, FC_WIDTH, num_classes)
    return [
        Layer(f"fc{6 + i}", "linear", widths[i], widths[i + 1], 1, 1, relu=i < 2) for i in range(3)
    ]


def layers(net: str, size: int = 224, num_classes: int = 1000) -> list[Layer]:
    """All fused layers of ``net`` for a size x size input."""
    return conv_layers(net, size) + fc_layers(num_classes)
