"""Predicted times: the longest of three limits for the main loop, and what comes on top of it.

- tensor: the busiest multiprocessor's products at the rate of the measured GEMM;
- l2: its tiles' way into shared memory, at an equal share of the L2's bandwidth (the weakest of the
  constants: a network's time is therefore given without this limit too);
- memory: the bytes that cannot be avoided.

On top come bytes that the launchers move besides (packed weights, padded channels, wgrad's partial
sums) and a launch for each kernel. Nothing overlaps anything else; the host is never in the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.cases import Group, group

from counted import work
from counted.hardware import ELEMENT, Hardware
from counted.tiling import Tiling, tiled
from counted.work import Work
from vggfast import configs
from vggfast.configs import Layer

FIRST_CHANNELS, FIRST_K = 3, 32  # what kernels/first3x3.py serves, and the length of its sum


@dataclass(frozen=True)
class Prediction:
    """A pass of a group of equal layers; times in seconds, of one layer."""

    group: Group
    kind: str
    batch: int
    work: Work
    tiling: Tiling | None  # None: not one of our tiled kernels
    limits: dict[str, float]
    extra_bytes: int
    extra: float  # those bytes and the launches

    @property
    def seconds(self) -> float:
        return max(self.limits.values()) + self.extra

    @property
    def without_l2(self) -> float:
        return max(s for name, s in self.limits.items() if name != "l2") + self.extra

    @property
    def bound(self) -> str:
        """The limit of the main loop, or "extra" if that is longer."""
        name = max(self.limits, key=self.limits.__getitem__)
        return "extra" if self.extra > self.limits[name] else name


@dataclass(frozen=True)
class Network:
    """A whole network. ``without_l2``: if the L2 never were the limit; ``roof``: its operations at
    the GEMM's rate and nothing else."""

    net: str
    kind: str  # "inference" or "training"
    batch: int
    flop: int
    seconds: float
    without_l2: float
    roof: float


def predict(
    g: Group, kind: str, n: int, dtype: str, gpu: Hardware, training: bool, top: bool = False
) -> Prediction:
    """One pass of a group of layers at ``n`` images; ``top``: the last convolution of a network."""
    layer = g.layer
    fused = kind == "mask" and layer.op == "conv3x3" and not top
    counted = work.count(layer, kind, n, dtype, training, fused)
    limits = {"memory": counted.bytes / gpu.memory}
    tiling, extra, kernels = None, 0, 1
    if layer.op == "conv3x3" and kind != "mask" and _few(layer) and kind != "dgrad":
        # All taps are one step of 32 products, of which 9 C_in count; launch/first.py.
        limits["tensor"] = counted.flop * FIRST_K / (9 * layer.c_in) / gpu.flops[dtype]
        kernels = 2 if kind == "wgrad" else 1
    elif layer.op == "conv3x3" and kind != "mask":
        tiling = tiled(layer, kind, n, dtype, gpu)
        steps = tiling.turns(gpu.multiprocessors) * tiling.steps  # of the busiest multiprocessor
        limits["tensor"] = steps * tiling.step_flop * gpu.multiprocessors / gpu.flops[dtype]
        busy = min(tiling.programs, gpu.multiprocessors)
        limits["l2"] = steps * tiling.step_bytes / min(gpu.l2 / busy, gpu.l2_each)
        extra, kernels = _besides(layer, kind, n, dtype, tiling, training)
    elif counted.flop:
        limits["tensor"] = counted.flop / gpu.flops[dtype]
    if kind == "mask":
        # At the top of a chain dz and the bias gradient's sums; below it lies in the dgrad above.
        kernels = 0 if fused else 2
    return Prediction(
        g, kind, n, counted, tiling, limits, extra, extra / gpu.memory + kernels * gpu.launch
    )


def _few(layer: Layer) -> bool:
    return layer.c_in <= FIRST_CHANNELS


def _besides(
    layer: Layer, kind: str, n: int, dtype: str, tiling: Tiling, training: bool
) -> tuple[int, int]:
    """Bytes that a launch moves beside those that it must, and its kernels."""
    e = ELEMENT[dtype]
    unit = 16 // e
    if kind == "wgrad":
        partial = 4 * tiling.splits * tiling.sums
        padded = _padding(layer.c_in, n * layer.h * layer.w, e)
        return 2 * partial + padded, 3 if padded else 2
    c_in = layer.c_out if kind == "dgrad" else layer.c_in
    c_out = layer.c_in if kind == "dgrad" else layer.c_out
    # Weights are packed once a step in training; inference keeps them.
    packed = e * 9 * c_out * (c_in + -(-c_in // unit) * unit) if training else 0
    padded = _padding(c_in, n * layer.h * layer.w, e)
    # What the programs that share a tile leave stays in the L2, but is a launch more.
    kernels = 1 + bool(packed) + bool(padded) + (tiling.splits > 1)
    return packed + padded, kernels


def _padding(c: int, pixels: int, e: int) -> int:
    """Bytes of a copy of a map with its channels padded to 16 bytes, if they are not."""
    unit = 16 // e
    return e * pixels * (c + -(-c // unit) * unit) if c % unit else 0


def rows(net: str, n: int, dtype: str, gpu: Hardware, size: int, training: bool = False
         ) -> list[Prediction]:  # fmt: skip
    """Every pass of every layer of a network, equal layers together."""
    crop = min(224, size // configs.DOWNSAMPLING * configs.DOWNSAMPLING)
    convolutions = configs.conv_layers(net, size)
    layers = convolutions + configs.fc_layers(crop=crop)
    last = group([layer for layer in convolutions if layer.op == "conv3x3"])[-1].layer
    return [
        predict(g, kind, n, dtype, gpu, training, g.layer == last)
        for kind in work.PASSES
        for g in group(layers)
        if work.applies(g.layer, kind)
    ]


def network(net: str, kind: str, n: int, dtype: str, gpu: Hardware, size: int) -> Network:
    """A network's inference, or its training step with SGD and momentum in float32."""
    training = kind == "training"
    passes = [r for r in rows(net, n, dtype, gpu, size, training) if training or r.kind == "fprop"]
    seconds = sum(r.seconds * r.group.count for r in passes)
    without_l2 = sum(r.without_l2 * r.group.count for r in passes)
    flop = sum(r.work.flop * r.group.count for r in passes)
    if training:
        parameters = sum(_parameters(r.group.layer) * r.group.count
                         for r in passes if r.kind == "fprop")  # fmt: skip
        # Reads weight, gradient and momentum, writes weight and momentum; under autocast weights
        # are cast down and gradients up.
        each = 20 if dtype == "fp32" else 20 + 6 + 6
        update = parameters * each / gpu.memory
        seconds, without_l2 = seconds + update, without_l2 + update
    return Network(net, kind, n, flop, seconds, without_l2, flop / gpu.flops[dtype])


def _parameters(layer: Layer) -> int:
    taps = {"conv3x3": 9, "conv1x1": 1, "linear": 1}.get(layer.op)
    return 0 if taps is None else (taps * layer.c_in + 1) * layer.c_out
