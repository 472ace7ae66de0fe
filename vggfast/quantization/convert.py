"""``quantize``: a network for inference in e4m3 from one that was trained."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.nn import FusedSequential, match
from vggfast.nn.sequential import _layer
from vggfast.quantization.calibrate import Observed, calibrate
from vggfast.quantization.modules import Conv3x3E4m3, QuantizedSequential

LEAST_CHANNELS = 16  # what one step of e4m3 memory holds; an image's three stay as they are
_EVEN = (2, 2)  # a map that any pool fits on
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def quantize(
    model: nn.Module, calibration: Iterable[Tensor], *, percentile: float | None = None
) -> nn.Module:
    """Return a copy of ``model`` whose 3x3 convolutions run in float8 e4m3, for inference.

    Weights get a scale for each output channel, its largest absolute value becoming 448, the
    largest e4m3; maps get one scale, from the largest absolute value that is seen on
    ``calibration``. Sums are float32. The first convolution (fewer than 16 input channels), 1x1
    convolutions, LRN and FC layers stay in the model's dtype, and so does the last convolution's
    result. Batch normalisation is folded into the weights. What it costs in accuracy:
    docs/numerics.md; ``vggfast.quantization.compare`` tells for a model of one's own.

    The kernels need a GPU of compute capability 9.0 or more; quantizing does not. Casts such as
    ``.to(torch.bfloat16)`` leave e4m3 numbers and scales as they are.

    Args:
        model: in eval mode, with convolutions in ``vggfast.nn.FusedSequential``, such as
            :func:`vggfast.vgg` makes; it is not changed. Convolutions with hooks stay as they are.
        calibration: batches of images (N, C, H, W) as the model takes them, finite; a few hundred
            images of the kind the network will see. They are moved to the model's device and dtype.
        percentile: above 0 and up to 100: take this percentile of a batch's absolute values, the
            largest over the batches, in place of the maximum; values beyond are clamped.

    Returns:
        The new module; its parameters require no gradient.

    Raises:
        InputError: another model or other batches than these.
    """
    _check(model, percentile)
    work = copy.deepcopy(model).requires_grad_(False)
    sequences = [
        (name, m)
        for name, m in work.named_modules()
        if isinstance(m, FusedSequential) and type(m).forward is FusedSequential.forward
    ]
    layers = [layer for name, m in sequences for layer in _observe(m, name)]
    if not layers:
        raise InputError(
            f"model: got {type(model).__name__} without convolutions to quantize, allowed is one "
            f"with 3x3 convolutions of {LEAST_CHANNELS} or more input channels in a "
            "FusedSequential, such as vggfast.vgg makes"
        )
    calibrate(work, calibration, layers, percentile)
    for _, m in sequences:
        _replace(m)
    return work


def _check(model: nn.Module, percentile: float | None) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model: got {type(model).__name__}, allowed is a torch.nn.Module")
    if any(m.training for m in model.modules()):
        raise InputError("model: got training mode, allowed is eval mode: call model.eval() first")
    for name, p in model.named_parameters():
        if p.dtype not in _DTYPES:
            raise InputError(
                f"model: got {p.dtype} in {name}, allowed are float16, bfloat16, float32"
            )
    if percentile is not None and not 0 < percentile <= 100:
        raise InputError(f"percentile: got {percentile}, allowed is 0 < percentile <= 100, or None")


def _observe(m: FusedSequential, name: str) -> list[Observed]:
    """Cut ``m`` in parts, those to quantize in an ``Observed`` each; return these."""
    # Not named_children(), which leaves out a module's second place, such as one ReLU's for all.
    names, children = list(m._modules), list(m)
    parts: dict[str, nn.Module] = {}
    found, kept, i = [], 0, 0  # kept: where the part that stays begins

    def part(begin: int, end: int) -> FusedSequential:
        inside = OrderedDict(zip(names[begin:end], children[begin:end], strict=True))
        return FusedSequential(inside, backend=m.backend).eval()

    while i < len(children):
        conv = children[i]
        if not (
            match.is_conv(conv, 3)
            and isinstance(conv, nn.Conv2d)
            and conv.in_channels >= LEAST_CHANNELS
        ):
            i += 1
            continue
        if kept < i:
            parts[names[kept]] = part(kept, i)
        used = _layer(children, i, _EVEN).used
        observed = Observed(part(i, i + used), f"{name}.{names[i]}" if name else names[i])
        parts[names[i]] = observed
        found.append(observed)
        kept = i = i + used
    if not found:
        return []
    if kept < len(children):
        parts[names[kept]] = part(kept, len(children))
    # In place, so that hooks on it and references to it stay.
    m._modules = parts
    m.__class__ = QuantizedSequential
    return found


def _replace(m: FusedSequential) -> None:
    """Put the e4m3 convolution in the place of each ``Observed`` child of ``m``."""
    names, children = list(m._modules), list(m)
    for i, child in enumerate(children):
        if isinstance(child, Observed):
            following = children[i + 1] if i + 1 < len(children) else None
            peak = following.peak if isinstance(following, Observed) else None
            assert child.peak is not None, "calibrate has seen to it"
            # In float32: folding batch normalisation in bfloat16 would round weights twice.
            one = _layer(list(child.part.float()), 0, _EVEN)
            m._modules[names[i]] = Conv3x3E4m3(
                one.w, one.b, child.peak, peak, one.relu, one.pool
            ).eval()
