"""Which shapes of convolutions and pools the ops compute, whatever class the module is of."""

from __future__ import annotations

from torch import nn


def keeps_size(m: nn.Conv2d, kernel: int) -> bool:
    """A kernel x kernel convolution of stride 1 that keeps the map's size, without groups."""
    return (
        m.kernel_size == (kernel, kernel)
        and m.stride == (1, 1)
        and m.padding == (kernel // 2, kernel // 2)
        and m.dilation == (1, 1)
        and m.groups == 1
        and m.padding_mode == "zeros"
    )


def halves_size(m: nn.MaxPool2d) -> bool:
    """A 2x2 max-pool of stride 2 without padding, rounding down."""
    return (
        m.kernel_size in (2, (2, 2))
        and m.stride in (2, (2, 2))
        and m.padding in (0, (0, 0))
        and m.dilation in (1, (1, 1))
        and not m.ceil_mode
        and not m.return_indices
    )
