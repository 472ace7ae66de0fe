"""What may be captured, and what a call of a captured graph may bring: one line that says why."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.nn.match import hooked


def model(m: object, *, training: bool) -> nn.Module:
    """``m`` is a module in the wanted mode, and nobody hooks into it: a replay calls no Python."""
    if not isinstance(m, nn.Module):
        raise InputError(f"model: got {type(m).__name__}, allowed is a torch.nn.Module")
    if isinstance(m, nn.parallel.DistributedDataParallel | nn.DataParallel):
        raise InputError(f"model: got {type(m).__name__}, allowed is a module on one GPU")
    mode(m, training=training)
    for name, part in m.named_modules():
        if hooked(part):
            raise InputError(
                f"model: got a hook or a replaced forward on {name or 'the model'}, allowed is a "
                "model without: a replay runs no Python"
            )
    return m


def mode(m: nn.Module, *, training: bool) -> None:
    """``m`` is in training mode, or in eval mode."""
    if m.training != training:
        got, allowed = ("eval", "training") if training else ("training", "eval")
        raise InputError(
            f"model: got {got} mode, allowed is {allowed} mode: call "
            f"model.{'train' if training else 'eval'}()"
        )


def on_gpu(name: str, t: object) -> Tensor:
    """``t`` is a tensor on a CUDA device."""
    if not isinstance(t, Tensor):
        raise InputError(f"{name}: got {type(t).__name__}, allowed is a torch.Tensor")
    if t.device.type != "cuda":
        raise InputError(
            f"{name}: got device {t.device}, allowed is a CUDA device: CUDA graphs need a GPU"
        )
    return t


def together(m: nn.Module, device: torch.device) -> None:
    """Every parameter and buffer is on ``device`` and can tell that it was changed."""
    for name, t in (*m.named_parameters(), *m.named_buffers()):
        if t.device != device:
            raise InputError(
                f"model: got {name} on {t.device}, allowed is {device}, as the example is"
            )
        if t.is_inference():
            raise InputError(
                f"model: got {name} made in torch.inference_mode(), allowed is a tensor made "
                "outside of it: its changes could not be seen"
            )


def like(name: str, given: object, static: Tensor) -> Tensor:
    """``given`` fits the memory that was captured: shape, dtype and device."""
    if not isinstance(given, Tensor):
        raise InputError(f"{name}: got {type(given).__name__}, allowed is a torch.Tensor")
    for what, got, allowed in (
        ("shape", tuple(given.shape), tuple(static.shape)),
        ("dtype", given.dtype, static.dtype),
        ("device", given.device, static.device),
    ):
        if got != allowed:
            raise InputError(f"{name}: got {what} {got}, allowed is {allowed}, which was captured")
    return given


def optimizer(given: object, device: torch.device) -> torch.optim.SGD:
    """A fused SGD of parameters on ``device``: only its fused form reads the rate on the GPU."""
    if type(given) is not torch.optim.SGD:
        raise InputError(f"optimizer: got {type(given).__name__}, allowed is torch.optim.SGD")
    hooks: list[Any] = [given._optimizer_step_pre_hooks, given._optimizer_step_post_hooks]
    if any(hooks):
        raise InputError(
            "optimizer: got one with step hooks, allowed is one without: a replay runs no Python"
        )
    for group in given.param_groups:
        if not group["fused"]:
            raise InputError(
                f"optimizer: got SGD with fused={group['fused']}, allowed is fused=True"
            )
        for p in group["params"]:
            if p.device != device:
                raise InputError(
                    f"optimizer: got a parameter on {p.device}, allowed is {device}, as the "
                    "example is"
                )
            started = "momentum_buffer" in given.state[p] if p in given.state else False
            if group["momentum"] and group["dampening"] and not started:
                raise InputError(
                    f"optimizer: got dampening {group['dampening']} before the first step, which "
                    "is not dampened; allowed is after an ordinary step"
                )
    return given
