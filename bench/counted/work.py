"""Operations of a pass of a layer, and the bytes it cannot avoid: each input and output once."""

from __future__ import annotations

from dataclasses import dataclass

from counted.hardware import ELEMENT
from vggfast.configs import Layer

PASSES = ("fprop", "mask", "dgrad", "wgrad")  # mask: dz from the gradient, through pool and ReLU


@dataclass(frozen=True)
class Place:
    """What lies around a convolution in a training step: it is a link of a chain, whose dgrad goes
    back through the layer below in its epilogue. By default a layer alone."""

    below: Layer | None = None  # the next 3x3 convolution below, if there is one
    top: bool = True  # whether its gradient comes in through its own ReLU and pool


ALONE = Place()


@dataclass(frozen=True)
class Work:
    """``flop``: a multiply-add counts 2. ``read``, ``written``: bytes of device memory."""

    flop: int
    read: int
    written: int

    @property
    def bytes(self) -> int:
        return self.read + self.written


def applies(layer: Layer, kind: str, place: Place = ALONE) -> bool:
    """The first layer's input needs no gradient, and its wgrad goes through ReLU and pool itself;
    LRN and a lone pool have no weights, no mask; below a link of a chain the mask is that one's."""
    if layer.op in ("lrn", "maxpool2x2"):
        return kind in ("fprop", "dgrad")
    if kind == "mask":
        return place.top and layer.name != "conv1_1" and (layer.relu or layer.pool)
    return kind != "dgrad" or layer.name != "conv1_1"


def count(
    layer: Layer, kind: str, n: int, dtype: str, training: bool = False, place: Place = ALONE
) -> Work:
    """The work of a pass at ``n`` images. In training a pool's fprop stores its argmax too.

    A chain's dgrad also reads x, its mask, and the argmax of the layer below, and writes what that
    layer's map takes. A first layer's wgrad reads the mask itself where no chain has applied it.
    """
    e = ELEMENT[dtype]
    pixels, pooled = n * layer.h * layer.w, n * (layer.h // 2) * (layer.w // 2)
    out = pooled if layer.pool else pixels
    x, z, y = e * pixels * layer.c_in, e * pixels * layer.c_out, e * out * layer.c_out
    argmax = out * -(-layer.c_out // 4) if layer.pool else 0
    if layer.op in ("lrn", "maxpool2x2"):
        return Work(0, x, y) if kind == "fprop" else Work(0, x + y, x)
    taps = 9 if layer.op == "conv3x3" else 1
    w, b = e * taps * layer.c_in * layer.c_out, e * layer.c_out
    flop = n * layer.flop
    if kind == "fprop":
        return Work(flop, x + w + b, y + (argmax if training else 0))
    if kind == "mask":
        return Work(0, 2 * y + argmax, z + b)
    if kind == "dgrad":
        if place.below is None:
            return Work(flop, z + w, x)
        below = place.below
        codes = pixels * -(-layer.c_in // 4) if below.pool else 0
        return Work(flop, z + w + x + codes, e * n * below.h * below.w * below.c_out)
    if layer.name == "conv1_1" and place.top:
        return Work(flop, x + 2 * y + argmax, w + b)
    return Work(flop, x + z, w)
