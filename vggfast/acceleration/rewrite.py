"""``accelerate`` and ``restore``: modules change their class, and nothing else about them."""

from __future__ import annotations

import copy
import warnings
from collections import Counter

import torch
from torch import Tensor, nn

from vggfast import backends
from vggfast.acceleration.reasons import (
    LOWERED,
    STANDS_IN,
    backend_name,
    replacement,
    why_not_conv,
)  # fmt: skip
from vggfast.errors import InputError
from vggfast.nn import FusedSequential, ServedConv2d, match

_OPTIONS = ("backend", "compute_dtype", "recompute_first")  # attributes that torch's classes lack
_STOOD_IN_FOR = {ours: theirs for theirs, ours in STANDS_IN.items()}


def accelerate(
    module: nn.Module,
    *,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    inplace: bool = False,
) -> nn.Module:
    """Serve the 3x3 convolutions and 2x2 pools of any network with vggfast's ops.

    Every plain ``nn.Sequential`` runs each conv 3x3 (+ batch norm in eval mode) (+ ReLU) (+ 2x2
    max-pool) among its children as one op; such convolutions and pools elsewhere are served one by
    one. Parameters, buffers, names and hooks stay the same objects, so state dicts, optimizers,
    ``requires_grad``, ``.to()``, ``copy.deepcopy`` and pickling work as before. Whatever has
    another shape, another class (subclasses, parametrized or quantized layers) or a ``forward`` of
    its own is left to torch; ``print(vggfast.explain(module))`` tells which, and why.

    Results have the memory layout torch's would have; channels_last input saves conversions.
    Second derivatives are an error; inside ``torch.func`` transforms torch's layers run.

    Args:
        module: any module; wrap it (DDP, ``torch.compile``) afterwards.
        backend: the backend forced for every op, or "auto".
        dtype: ``torch.bfloat16`` or ``torch.float16``: the dtype fused layers compute in outside of
            ``torch.autocast``; parameters, inputs and results of the rest stay as they are.
        inplace: change ``module`` itself. Else a new tree of modules is made, which shares all
            parameters and buffers with ``module``, and ``module`` is not changed. (``.to()`` and
            casts replace buffers: they are shared no longer then.)

    Returns:
        The module that was changed; ``module`` as it is, with a warning, where nothing can be
        served. Calling it again only sets the options anew.

    Raises:
        InputError: no module, another backend or dtype, or a module that cannot be copied.
    """
    _check(module, backend, dtype)
    if not any(map(_is_served_conv, module.modules())):
        warnings.warn(f"accelerate: {nothing(module)}; it is left as it is", stacklevel=2)
        return module
    work = module if inplace else _sharing_copy(module)
    for m, kind in [(m, replacement(m)) for m in work.modules()]:
        if kind is None:
            continue
        m.__class__ = kind
        m.backend, m.compute_dtype = backend_name(backend), dtype  # type: ignore[assignment]
    return work


def restore(module: nn.Module) -> nn.Module:
    """Give torch's classes back to the modules that ``accelerate`` changed, in place.

    Returns:
        ``module``, with the same parameters.

    Raises:
        InputError: no module, or a layer that was parametrized since; nothing is changed then.
    """
    _check_module(module)
    ours = []
    for name, m in module.named_modules():
        if type(m) in _STOOD_IN_FOR:
            ours.append(m)
        elif isinstance(m, tuple(_STOOD_IN_FOR)):
            raise InputError(
                f"module: got {name} of class {type(m).__name__}, derived from vggfast's; allowed "
                "is one whose parametrizations were removed (torch.nn.utils.parametrize)"
            )
    for m in ours:
        m.__class__ = _STOOD_IN_FOR[type(m)]
        for option in _OPTIONS:
            vars(m).pop(option, None)
    return module


def nothing(module: nn.Module) -> str:
    """Why there is nothing to serve in ``module``."""
    reasons = Counter(
        str(why_not_conv(m)) for m in module.modules() if isinstance(m, nn.modules.conv._ConvNd)
    )
    if not reasons:
        return f"{type(module).__name__} has no convolution"
    told = "; ".join(f"{n} with {reason}" for reason, n in reasons.most_common(4))
    return f"{type(module).__name__} has no 3x3 convolution of stride 1 to serve ({told})"


def _is_served_conv(m: nn.Module) -> bool:
    fused = isinstance(m, FusedSequential) and any(match.is_conv(c, 3) for c in m.children())
    return fused or replacement(m) is ServedConv2d


def _check(module: nn.Module, backend: str, dtype: torch.dtype | None) -> None:
    _check_module(module)
    if not isinstance(backend, str):
        raise InputError(
            f"backend: got {backend!r}, allowed are auto, {', '.join(backends.names())}"
        )
    if backend != "auto":
        backends.get(backend)
    if dtype not in LOWERED:
        raise InputError(
            f"dtype: got {dtype}, allowed are None, torch.bfloat16, torch.float16 (for another "
            "one cast the module itself)"
        )


def _check_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise InputError(f"module: got {type(module).__name__}, allowed is a torch.nn.Module")


def _sharing_copy(module: nn.Module) -> nn.Module:
    """A new tree of modules with the parameters, buffers and other tensors of ``module``."""
    shared: dict[int, Tensor] = {}
    for m in module.modules():
        for t in (*m._parameters.values(), *m._buffers.values(), *vars(m).values()):
            if isinstance(t, Tensor):
                shared[id(t)] = t
    try:
        made = copy.deepcopy(module, dict(shared))
    except Exception as error:  # whatever a module holds: locks, process groups, graphs
        raise InputError(
            f"module: got {type(module).__name__}, which cannot be copied ({error}); allowed with "
            "inplace=False is one that can"
        ) from error
    theirs, own = list(module.parameters()), list(made.parameters())
    if len(theirs) != len(own) or any(a is not b for a, b in zip(theirs, own, strict=True)):
        raise InputError(
            f"module: got {type(module).__name__}, whose copy has parameters of its own; allowed "
            "with inplace=False is one that shares them"
        )
    return made
