"""Operations of a pass of a layer, and the bytes it cannot avoid: each input and output once."""

from __future__ import annotations

from dataclasses import dataclass

from counted.hardware import ELEMENT
from vggfast.configs import Layer

PASSES = ("fprop", "mask", "dgrad", "wgrad")  # mask: dz from the gradient, through pool and ReLU


@dataclass(frozen=True)
class Work:
    """``flop``: a multiply-add counts 2. ``read``, ``written``: bytes of device memory."""

    flop: int
    read: int
    written: int

    @property
    def bytes(self) -> int:
        return self.read + self.written


def applies(layer: Layer, kind: str) -> bool:
    """The first layer's input needs no gradient; LRN and a lone pool have no weights, no mask."""
    if layer.op in ("lrn", "maxpool2x2"):
        return kind in ("fprop", "dgrad")
    if kind == "mask":
        return layer.relu or layer.pool
    return kind != "dgrad" or layer.name != "conv1_1"


def count(
    layer: Layer, kind: str, n: int, dtype: str, training: bool = False, fused: bool = False
) -> Work:
    """The work of a pass at ``n`` images. In training a pool's fprop stores its argmax too.

    ``fused``: of "mask", what it adds to the dgrad of the layer above, whose epilogue it is: that
    reads y and the argmax, and writes z's size instead of y's.
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
        return Work(0, y + argmax, z - y) if fused else Work(0, 2 * y + argmax, z + b)
    if kind == "dgrad":
        return Work(flop, z + w, x)
    return Work(flop, x + z, w)
