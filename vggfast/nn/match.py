"""Which modules the ops can stand in for. Anything off the beaten track is left to torch."""

from __future__ import annotations

from torch import nn
from torch.nn.modules import module as _module

from vggfast.nn.bf16_linear import Bf16Linear


def is_conv(m: nn.Module, kernel: int) -> bool:
    """A kernel x kernel convolution of stride 1 that keeps the map's size, without groups."""
    return (
        type(m) is nn.Conv2d
        and m.kernel_size == (kernel, kernel)
        and m.stride == (1, 1)
        and m.padding == (kernel // 2, kernel // 2)
        and m.dilation == (1, 1)
        and m.groups == 1
        and m.padding_mode == "zeros"
        and not hooked(m)
    )


def is_relu(m: nn.Module) -> bool:
    return type(m) is nn.ReLU and not hooked(m)


def is_pool(m: nn.Module) -> bool:
    """A 2x2 max-pool of stride 2 without padding, rounding down."""
    return (
        type(m) is nn.MaxPool2d
        and m.kernel_size in (2, (2, 2))
        and m.stride in (2, (2, 2))
        and m.padding in (0, (0, 0))
        and m.dilation in (1, (1, 1))
        and not m.ceil_mode
        and not m.return_indices
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
