"""Which modules ``accelerate`` may put other classes in for, and why not the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vggfast.nn import ServedConv2d, ServedMaxPool2d, ServedSequential, match, shapes
from vggfast.ops._check import DTYPES

Served = ServedConv2d | ServedMaxPool2d | ServedSequential

# torch's classes and those that stand in for them: the same attributes, another ``forward``.
STANDS_IN: dict[type[nn.Module], type[Served]] = {
    nn.Conv2d: ServedConv2d,
    nn.MaxPool2d: ServedMaxPool2d,
    nn.Sequential: ServedSequential,
}


def replacement(m: nn.Module) -> type[Served] | None:
    """The class that serves this module, or None if it is left as it is."""
    if is_plain(m, nn.Conv2d) and why_not_conv(m) is None:
        return ServedConv2d
    if is_plain(m, nn.MaxPool2d) and why_not_pool(m) is None:
        return ServedMaxPool2d
    if is_plain(m, nn.Sequential) and all(odd_tensor(child) is None for child in m.children()):
        worth = (match.is_linear(c) or replacement(c) in _WORTH for c in m.children())
        return ServedSequential if any(worth) else None
    return None


_WORTH = (ServedConv2d, ServedMaxPool2d)


def is_plain(m: nn.Module, kind: type[nn.Module]) -> bool:
    """Exactly this class of torch's, or what stands in for it, with the class's own forward."""
    return type(m) in (kind, STANDS_IN[kind]) and "forward" not in vars(m)


def why_not_conv(m: nn.Module) -> str | None:
    """Why this convolution alone is left to torch; None if an op serves it."""
    if not is_plain(m, nn.Conv2d):
        return other_class(m)
    assert isinstance(m, nn.Conv2d)
    reason = odd_tensor(m)
    if reason is not None or shapes.keeps_size(m, 3):
        return reason
    facts = {
        "kernel": (m.kernel_size, (3, 3)),
        "stride": (m.stride, (1, 1)),
        "padding": (m.padding, (1, 1)),
        "dilation": (m.dilation, (1, 1)),
        "groups": (m.groups, 1),
        "padding_mode": (m.padding_mode, "zeros"),
    }
    return ", ".join(f"{name} {got}" for name, (got, served) in facts.items() if got != served)


def why_not_pool(m: nn.Module) -> str | None:
    """Why this max-pool alone is left to torch; None if an op serves it."""
    if not is_plain(m, nn.MaxPool2d):
        return other_class(m)
    assert isinstance(m, nn.MaxPool2d)
    if shapes.halves_size(m):
        return None
    facts = {
        "kernel": (m.kernel_size, (2, (2, 2))),
        "stride": (m.stride, (2, (2, 2))),
        "padding": (m.padding, (0, (0, 0))),
        "dilation": (m.dilation, (1, (1, 1))),
        "ceil_mode": (m.ceil_mode, (False,)),
        "return_indices": (m.return_indices, (False,)),
    }
    return ", ".join(f"{name} {got}" for name, (got, served) in facts.items() if got not in served)


def other_class(m: nn.Module) -> str:
    if "forward" in vars(m):
        return "its forward was replaced"
    if nn.utils.parametrize.is_parametrized(m):
        return "it is parametrized"
    return f"of class {type(m).__name__}, whose forward is its own"


def odd_tensor(m: nn.Module) -> str | None:
    """What is unusual about the module's own weights; None if all are plain tensors."""
    if isinstance(m, (nn.Conv2d, nn.Linear)) and "weight" not in m._parameters:
        return "its weight is no parameter: something computes it before each call"
    for name, t in (*m._parameters.items(), *m._buffers.items()):
        if t is None:
            continue
        if type(t) not in (nn.Parameter, Tensor, nn.Buffer):
            return f"its {name} is a {type(t).__name__}"
        if isinstance(m, (nn.Conv2d, nn.Linear)) and t.dtype not in DTYPES:
            return f"its {name} is {str(t.dtype).removeprefix('torch.')}"
    return None


def backend_name(backend: str) -> str | None:
    """What modules hold: None for the automatic choice."""
    return None if backend == "auto" else backend


LOWERED = (None, torch.bfloat16, torch.float16)
