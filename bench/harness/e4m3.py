"""--dtype e4m3: ours with its 3x3 convolutions in e4m3, everything else and everyone else in bf16.

Its logits cannot be held to the bound of bf16: rounding maps and weights to four bits moves them by
more. They are held to the emulation of the same arithmetic in float64 instead, by the rule of the
other checks: their error against the float64 network is at most twice the emulation's, plus what
bf16 may lose. Each layer is held to float64 on the same e4m3 numbers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

import vggfast
from harness import cases
from harness.cases import Group
from harness.numerics import ALLOWED, Check, finite, poisoned, small_maps
from harness.options import Options
from harness.oracle import Oracle
from vggfast import reference
from vggfast.quantization import Conv3x3E4m3, Cost, compare, emulated

CALIBRATION = (2, 8)  # batches, images in each
# Hopper's tensor cores add e4m3 products with about 14 bits, at most 36 times before float32 takes
# over: 4e-4 of the sum by a model of it (docs/numerics.md).
SUMS = 2e-3


def quantized(model: vggfast.VGG, options: Options) -> nn.Module:
    """Ours for the run: ``model`` in bf16, quantised on images of its own."""
    batches, images = CALIBRATION
    found = []
    for i in range(batches):
        g = torch.Generator(options.device).manual_seed(options.seed + 1_000_000 + i)
        shape = (images, 3, options.size, options.size)
        found.append(torch.randn(shape, generator=g, device=options.device).to(options.dtype))
    return vggfast.quantize(model.to(options.dtype).eval(), found)


def check_layer(group: Group, options: Options) -> list[Check]:
    """The sums of a layer on small maps, stored in fp32, against float64 of the same numbers."""
    layer = group.layer
    if layer.op != "conv3x3" or layer.c_in < 16:
        return []
    found = []
    for i, (n, h, w) in enumerate(small_maps(layer, options.quick)):
        seed = options.seed + 17 * i
        x, weight, b = cases.inputs(layer, n, h, w, torch.float32, options.device, seed)
        one = Conv3x3E4m3(weight, b, x.abs().max().item(), None, layer.relu, layer.pool)
        xq = reference.quantize_e4m3(x, one.input_scale)
        with poisoned():
            y = one(xq)
        exact = reference.exact_conv3x3_e4m3(
            xq, one.weight, one.scale, one.shift, layer.relu, layer.pool
        )
        case = f"{tuple(x.shape)}, e4m3, against float64 of the same numbers"
        found.append(Check(group.name, case, "y", reference.errors(y, exact), 0.0, SUMS))
    return found


def held(run: nn.Module, x: Tensor, known: Oracle) -> Oracle:
    """``known`` with the error allowed to ``run``, a network in e4m3, on the images x."""
    return replace(known, bound=ALLOWED * finite(_emulation(run, x, known)) + known.bound)


def check(run: nn.Module, y: Tensor, x: Tensor, known: Oracle) -> Check:
    """Logits y of ``run`` on the images x, as a check of the run's numerics."""
    baseline = _emulation(run, x, known)
    found = known.check(y, len(x), x.shape[-1])
    bound = ALLOWED * finite(baseline) + known.bound
    return replace(found, case=f"{found.case}, e4m3", baseline=baseline, bound=bound)


def _emulation(run: nn.Module, x: Tensor, known: Oracle) -> float:
    """The error of the same arithmetic in float64."""
    with torch.no_grad(), emulated():
        y = run(x[list(known.rows)])
    return reference.errors(y.to(known.logits.device), known.logits).rel


def cost(model: vggfast.VGG, x: Tensor, options: Options) -> Cost:
    """How far e4m3 moves the logits of the network in bf16 on the images x."""
    return compare(quantized(model, options), model.to(options.dtype).eval(), [x])
