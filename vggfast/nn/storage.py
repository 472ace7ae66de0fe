"""How the weights of FC layers are stored."""

from __future__ import annotations

import torch
from torch import nn

from vggfast.backends import WEIGHTS
from vggfast.errors import InputError
from vggfast.nn.bf16_linear import Bf16Linear
from vggfast.nn.sequential import FusedSequential


def store_weights(model: nn.Module, weights: str) -> nn.Module:
    """Store the weights of the FC layers of ``model`` in bfloat16, in place, for inference.

    At a small batch an FC layer takes as long as reading its weights: half the bytes, half the
    time. Activations, sums and biases stay float32; each weight is rounded once, to nearest, by up
    to 2^-8 of its value (docs/numerics.md: what that costs). ``print(model)`` shows which layers
    are stored so, and ``explain(weights="bf16")`` what runs them.

    A forward pass in training mode and a backward pass are errors. State dicts keep their names:
    one saved holds bfloat16 weights and loads into any VGG; a float32 one loaded is rounded.

    Args:
        model: in eval mode and float32, on the CPU, with FC layers as :func:`vggfast.vgg` makes
            them: ``nn.Linear`` in a ``FusedSequential``.
        weights: "bf16"; or "fp32", which widens weights stored in bfloat16 (what rounding took off
            is lost).

    Returns:
        ``model``.

    Raises:
        InputError: another model or other weights; nothing is changed then.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights: got {weights!r}, allowed are {', '.join(WEIGHTS)}")
    layers = _fc_layers(model)
    for name, m in layers.items():
        _check(name, m)
    if weights == "bf16" and model.training:
        raise InputError("model: got training mode, allowed is eval mode: call model.eval() first")
    kind, dtype = (Bf16Linear, torch.bfloat16) if weights == "bf16" else (nn.Linear, torch.float32)
    for m in layers.values():
        if type(m) is not kind or m.weight.dtype is not dtype:
            m.__class__ = kind  # so that hooks, names and references to the layer stay
            m.weight = nn.Parameter(m.weight.detach().to(dtype), requires_grad=weights == "fp32")
    return model


def _fc_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The FC layers of every FusedSequential, by name."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model: got {type(model).__name__}, allowed is a torch.nn.Module")
    found = {}
    for path, parent in model.named_modules():
        if isinstance(parent, FusedSequential):
            for name, m in parent.named_children():
                if type(m) in (nn.Linear, Bf16Linear):
                    found[f"{path}.{name}" if path else name] = m
    if not found:
        raise InputError(
            f"model: got {type(model).__name__} without FC layers, allowed is one with nn.Linear "
            "in a FusedSequential, such as vggfast.vgg makes"
        )
    return found  # type: ignore[return-value]


def _check(name: str, m: nn.Linear) -> None:
    for key, p in m.named_parameters(recurse=False):
        stored = type(m) is Bf16Linear and key == "weight" and p.dtype is torch.bfloat16
        if p.dtype is not torch.float32 and not stored:
            raise InputError(f"model: got {p.dtype} in {name}.{key}, allowed is torch.float32")
        if p.device.type != "cpu":
            raise InputError(f"model: got {name}.{key} on {p.device}, allowed is cpu")
