"""Which modules the ops can stand in for. Anything off the beaten track is left to torch."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as _module

from vggfast.nn import shapes
from vggfast.nn.bf16_linear import Bf16Linear
from vggfast.nn.served import ServedConv2d, ServedMaxPool2d


def is_conv(m: nn.Module, kernel: int) -> bool:
    """A kernel x kernel convolution of stride 1 that keeps the map's size, without groups."""
    return (
        type(m) in (nn.Conv2d, ServedConv2d)
        and shapes.keeps_size(m, kernel)  # type: ignore[arg-type]
        and not hooked(m)
    )


def is_relu(m: nn.Module) -> bool:
    return type(m) is nn.ReLU and not hooked(m)


def is_pool(m: nn.Module) -> bool:
    """A 2x2 max-pool of stride 2 without padding, rounding down."""
    return (
        type(m) in (nn.MaxPool2d, ServedMaxPool2d)
        and shapes.halves_size(m)  # type: ignore[arg-type]
        and not hooked(m)
    )


def is_foldable_norm(m: nn.Module) -> bool:
    """Batch normalisation with fixed statistics: it folds into the weights before it."""
    return (
        type(m) is nn.BatchNorm2d
        and not m.training
        and m.running_mean is not None
        and m.running_var is not None
        and not hooked(m)
    )


def is_lrn(m: nn.Module) -> bool:
    return type(m) is nn.LocalResponseNorm and not hooked(m)


def is_linear(m: nn.Module) -> bool:
    """An FC layer. One of two dtypes is torch's (an error there), unless it was asked for."""
    plain = type(m) is nn.Linear and (m.bias is None or m.bias.dtype == m.weight.dtype)
    return (plain or type(m) is Bf16Linear) and not hooked(m)


def is_served(m: nn.Module, dims: int) -> bool:
    """Whether an op stands in for this module on a tensor of so many dimensions."""
    if dims == 4:
        return is_conv(m, 3) or is_conv(m, 1) or is_pool(m) or is_lrn(m)
    return dims == 2 and is_linear(m)


def any_layout(m: nn.Module) -> bool:
    """A module that gives the same values for contiguous and for channels_last tensors.

    Dropout does not: which elements it drops goes by memory order.
    """
    return type(m) in _ANY_LAYOUT and not hooked(m) and not getattr(m, "return_indices", False)


def any_dtype(m: nn.Module) -> bool:
    """One of these without weights, which takes any floating dtype."""
    return any_layout(m) and type(m) in _NO_WEIGHTS


_NO_WEIGHTS = (
    nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.LeakyReLU, nn.MaxPool2d,
    nn.ReLU, ServedMaxPool2d,
)  # fmt: skip
_ANY_LAYOUT = (*_NO_WEIGHTS, nn.BatchNorm2d, nn.Conv2d, nn.ConvTranspose2d, ServedConv2d)


def hooked(m: nn.Module) -> bool:
    """Someone watches this module, so its own input and output must exist: it ends a fusion."""
    return bool(
        m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
        or _module._global_forward_hooks
        or _module._global_forward_pre_hooks
        or _module._global_backward_hooks
        or _module._global_backward_pre_hooks
        or "forward" in m.__dict__  # replaced on the instance, as some tracers do
    )
