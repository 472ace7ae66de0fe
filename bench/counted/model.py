"""Predicted times: the longest of three limits for the main loop, and what comes on top of it.

- tensor: the busiest multiprocessor's products at the rate of the measured GEMM;
- l2: its tiles' way into shared memory, at an equal share of the L2's bandwidth (the weakest of the
  constants: a network's time is therefore given without this limit too);
- memory: the bytes that cannot be avoided.

On top come bytes that the launchers move besides (packed weights, padded channels, partial sums of
gradients; those of a split fprop stay in the L2) and a launch for each kernel. Nothing overlaps
anything else; the host is never in the way.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.cases import Group, group
from vggfast.kernels import flat_plan
from vggfast.kernels.splits import share

from counted import work
from counted.hardware import ELEMENT, Hardware
from counted.tiling import Tiling, few, tiled
from counted.work import ALONE, Place, Work
from vggfast import configs
from vggfast.configs import Layer

# Of launch/linear.py, images that it serves, and of launch/dgrad.py, rows a program adds at a time:
# modules that import triton. Tests compare them.
FEW_IMAGES, SUM_ROWS = 16, 16


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
    kernels: int
    extra: float  # those bytes and the launches
    joined: float  # partial sums by way of the L2

    @property
    def seconds(self) -> float:
        return max(self.limits.values()) + self.extra + self.joined

    @property
    def without_l2(self) -> float:
        return max(s for name, s in self.limits.items() if name != "l2") + self.extra

    @property
    def bound(self) -> str:
        """The limit of the main loop, or "extra" if that is longer."""
        name = max(self.limits, key=self.limits.__getitem__)
        return "extra" if self.extra + self.joined > self.limits[name] else name


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
    g: Group,
    kind: str,
    n: int,
    dtype: str,
    gpu: Hardware,
    training: bool,
    place: Place = ALONE,
) -> Prediction:
    """One pass of a group of layers at ``n`` images; ``place``: in a training step's chain."""
    layer = g.layer
    counted = work.count(layer, kind, n, dtype, training, place)
    limits = {"memory": counted.bytes / gpu.memory}
    tiling, besides = None, Besides()
    if layer.op == "conv3x3" and kind != "mask":
        tiling = tiled(layer, kind, n, dtype, gpu, place)
        steps = tiling.turns(gpu.multiprocessors) * tiling.steps  # of the busiest multiprocessor
        exact = dtype == "fp32" and few(layer, kind)
        rate = gpu.ieee if exact else gpu.flops[dtype]
        limits["tensor"] = steps * tiling.step_flop * gpu.multiprocessors / rate
        busy = min(tiling.programs, gpu.multiprocessors)
        limits["l2"] = steps * tiling.step_bytes / min(gpu.l2 / busy, gpu.l2_each)
        besides = _besides(layer, kind, n, dtype, gpu, tiling, training, place)
    elif counted.flop:
        limits["tensor"] = counted.flop / gpu.flops[dtype]
        if layer.op == "linear" and kind == "fprop" and n <= FEW_IMAGES:
            besides = Besides(kernels=2)  # parts of sums, and their sum
    if kind == "mask":
        besides = Besides(kernels=2)  # dz with the bias gradient's parts, and their sum
    return Prediction(
        g, kind, n, counted, tiling, limits, besides.memory, besides.kernels,
        besides.memory / gpu.memory + besides.kernels * gpu.launch, besides.l2 / gpu.l2,
    )  # fmt: skip


@dataclass(frozen=True)
class Besides:
    """What a pass moves beside what it must, in bytes, and how many kernels it launches."""

    memory: int = 0
    l2: int = 0  # of partial sums, small enough to stay in it
    kernels: int = 1


def _besides(
    layer: Layer, kind: str, n: int, dtype: str, gpu: Hardware, tiling: Tiling, training: bool,
    place: Place,
) -> Besides:  # fmt: skip
    e = ELEMENT[dtype]
    unit = 16 // e
    partial = 2 * 4 * tiling.splits * tiling.sums  # written and read
    if kind == "wgrad":
        padded = 0 if few(layer, kind) else _padding(layer.c_in, n * layer.h * layer.w, e)
        return Besides(partial + padded, 0, 3 if padded else 2)
    if few(layer, kind):
        return Besides()
    c_in, c_out = layer.c_in, layer.c_out
    if kind == "dgrad":
        c_in, c_out = c_out, c_in
    # Weights are packed once a step in training; else the packed ones are kept.
    packed = e * 9 * c_out * (c_in + -(-c_in // unit) * unit) if training else 0
    padded = _padding(c_in, n * layer.h * layer.w, e)
    kernels = 1 + bool(packed) + bool(padded) + bool(tiling.sums)
    if tiling.tile.form == "flat":  # a layer alone: its map is copied into the form
        rows, width = flat_plan.rows(n, layer.h, layer.w), e * -(-c_in // unit) * unit
        copied = width * (n * layer.h * layer.w + rows) + 4 * -(-rows // 32)
        return Besides(packed + padded + copied, 0, kernels + 1)
    if kind == "dgrad" and place.below is not None:  # a sum of each box for the bias gradient
        blocks = -(-tiling.boxes // SUM_ROWS)
        _, programs = share(blocks, 4 * gpu.multiprocessors)
        sums = 2 * 4 * c_out * (tiling.boxes + (programs if programs > 1 else 0))
        return Besides(packed + padded + sums, 0, kernels + (2 if programs > 1 else 1))
    return Besides(packed + padded, partial, kernels)


def _padding(c: int, pixels: int, e: int) -> int:
    """Bytes of a copy of a map with its channels padded to 16 bytes, if they are not."""
    unit = 16 // e
    return e * pixels * (c + -(-c // unit) * unit) if c % unit else 0


def rows(net: str, n: int, dtype: str, gpu: Hardware, size: int, training: bool = False
         ) -> list[Prediction]:  # fmt: skip
    """Every pass of every layer of a network, equal layers in equal places together.

    In ``training`` as parts of a step, where 3x3 convolutions side by side make a chain. Else each
    layer alone, called again and again, as bench/run.py times it.
    """
    crop = min(224, size // configs.DOWNSAMPLING * configs.DOWNSAMPLING)
    layers = configs.conv_layers(net, size) + configs.fc_layers(crop=crop)
    found = []
    for kind in work.PASSES:
        by_place: dict[Place, list[Layer]] = {}
        for i, layer in enumerate(layers):
            place = _place(layers, i, kind) if training else ALONE
            if work.applies(layer, kind, place):
                by_place.setdefault(place, []).append(layer)
        passes = [(g, place) for place, part in by_place.items() for g in group(part)]
        order = {layer.name: i for i, layer in enumerate(layers)}
        passes.sort(key=lambda p: order[p[0].names[0]])
        found += [predict(g, kind, n, dtype, gpu, training, place) for g, place in passes]
    return found


def _place(layers: list[Layer], i: int, kind: str) -> Place:
    """Where a layer stands in a step's chains, as far as a pass depends on it."""
    layer, below, above = layers[i], layers[i - 1] if i else None, layers[i + 1 : i + 2]
    chained = layer.op == "conv3x3" and bool(above) and above[0].op == "conv3x3"
    if kind == "dgrad" and layer.op == "conv3x3" and below is not None and below.op == "conv3x3":
        shape = Layer("", "conv3x3", 0, below.c_out, below.h, below.w, below.relu, below.pool)
        return Place(shape)
    return Place(top=not chained) if kind == "mask" or few(layer, kind) else ALONE


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
