"""Stochastic gradient descent with momentum, all parameters of a GPU in one launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd as torch_sgd

from vggfast.backends import Call, cuda_launch, cuda_sgd
from vggfast.errors import InputError

_HALF = (torch.float16, torch.bfloat16)


class SGD(Optimizer):
    """``torch.optim.SGD`` with one kernel launch a step.

    On a GPU the CUDA kernels of this package update every float32, float16 and bfloat16 parameter
    of a group, up to 80 a launch; elsewhere torch's own function does (bit for bit
    ``torch.optim.SGD(foreach=True)`` for float32 and float64). ``how()`` says which.

    Parameters of 16 bits keep float32 weights and a float32 momentum beside them, on every device;
    the 16-bit ones are their rounded copies. ``torch.optim.SGD`` updates the 16-bit values
    themselves, where a small step is lost.

    ``state_dict`` has torch's form (``momentum_buffer``) and loads into ``torch.optim.SGD`` and
    from it; 16-bit parameters have ``master_param`` besides. It wins over the parameter: who
    changes a 16-bit parameter by hand after the first step must make a new optimizer.

    Args:
        params: parameters, or groups of them, as for every torch optimizer.
        lr: learning rate, >= 0.
        momentum: >= 0.
        dampening: of the gradient that enters the momentum.
        weight_decay: L2 penalty, >= 0.
        nesterov: Nesterov's momentum; needs a momentum and no dampening.
        maximize: go up instead of down.

    Raises:
        InputError: a constant out of range; ``step`` raises it for a sparse gradient.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        _check_number("lr", lr)
        _check_number("momentum", momentum)
        _check_number("weight_decay", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise InputError(
                f"nesterov: got momentum {momentum} and dampening {dampening}, allowed are a "
                "momentum above 0 and no dampening"
            )
        defaults = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize, "foreach": None, "differentiable": False,
            "fused": None,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns what ``closure`` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            step = _step(group)
            # By the gradient's device and dtype, and whether a kernel serves them.
            lists: dict[tuple[torch.device, torch.dtype, bool], list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise InputError("grad: got a sparse gradient, allowed are dense ones")
                lists[(p.device, p.dtype, _served(p))].append(p)
            for (_, _, served), params in lists.items():
                (self._by_kernel if served else self._by_torch)(params, step)
        return loss

    def how(self) -> str:
        """What updates the parameters, by device and dtype."""
        kinds: dict[str, None] = {}
        for group in self.param_groups:
            for p in group["params"]:
                who = f"own kernel, {cuda_launch.how()}" if _served(p, p) else "torch's kernels"
                kinds[f"{p.device.type}, {str(p.dtype).removeprefix('torch.')}: {who}"] = None
        return "; ".join(kinds)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every torch optimizer's; float32 state of 16-bit parameters stays float32."""
        super().load_state_dict(state_dict)
        saved = [i for group in state_dict["param_groups"] for i in group["params"]]
        ours = [p for group in self.param_groups for p in group["params"]]
        for i, p in zip(saved, ours, strict=True):
            if p.dtype not in _HALF:
                continue
            for name in ("momentum_buffer", "master_param"):
                value = state_dict["state"].get(i, {}).get(name)
                if value is not None:
                    self.state[p][name] = value.to(p.device, torch.float32, copy=True)

    def _by_kernel(self, params: list[Tensor], step: cuda_sgd.Step) -> None:
        tensors = []
        for p in params:
            buffer, first = None, False
            if step.momentum != 0:
                buffer = self.state[p].get("momentum_buffer")
                first = buffer is None
                buffer = torch.empty_like(p, dtype=torch.float32) if first else _as_laid(buffer, p)
            copy = p if p.dtype in _HALF else None
            assert p.grad is not None
            tensors.append(cuda_sgd.Tensors(self._master(p), p.grad, buffer, copy, first))
        cuda_sgd.update(tensors, step)
        # Not before: a new buffer holds nothing if the launch fails.
        for p, t in zip(params, tensors, strict=True):
            if t.buffer is not None:
                self.state[p]["momentum_buffer"] = t.buffer
        # Nothing tells autograd that a kernel wrote: a graph that saved p must notice.
        torch.autograd.graph.increment_version(params)

    def _by_torch(self, params: list[Tensor], step: cuda_sgd.Step) -> None:
        masters = [self._master(p) for p in params]
        grads = [p.grad.to(m.dtype) for p, m in zip(params, masters, strict=True)]  # type: ignore[union-attr]
        buffers: list[Tensor | None] = [None] * len(params)
        if step.momentum != 0:
            buffers = [self.state[p].get("momentum_buffer") for p in params]
        torch_sgd(
            masters, grads, buffers, has_sparse_grad=False, foreach=True, lr=step.lr,
            weight_decay=step.weight_decay, momentum=step.momentum, dampening=step.dampening,
            nesterov=step.nesterov, maximize=step.maximize,
        )  # fmt: skip
        for p, master, buffer in zip(params, masters, buffers, strict=True):
            if step.momentum != 0:
                self.state[p]["momentum_buffer"] = buffer
            if master is not p:
                p.copy_(master)

    def _master(self, p: Tensor) -> Tensor:
        """The weights that are updated: those of a 16-bit parameter in float32."""
        if p.dtype not in _HALF:
            return p
        state = self.state[p]
        kept = state.get("master_param")
        state["master_param"] = p.detach().float() if kept is None else _as_laid(kept, p)
        master: Tensor = state["master_param"]
        return master


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, Tensor) or not value >= 0:
        raise InputError(f"{name}: got {value}, allowed is a number of at least 0")


def _step(group: dict[str, Any]) -> cuda_sgd.Step:
    return cuda_sgd.Step(
        float(group["lr"]), group["momentum"], group["dampening"], group["weight_decay"],
        group["nesterov"], group["maximize"],
    )  # fmt: skip


def _served(p: Tensor, grad: Tensor | None = None) -> bool:
    """Whether the kernel updates p: on its devices and dtypes, weights and gradient alike in
    memory and dense, so that element i of one belongs to element i of the other."""
    grad = p.grad if grad is None else grad
    if p.dtype not in cuda_launch.TYPES or grad is None:
        return False
    if grad.dtype != p.dtype or grad.stride() != p.stride() or not _dense(p):
        return False
    return _kernel_there(p.device.type, p.dtype, cuda_launch.emulating())


@lru_cache(maxsize=64)
def _kernel_there(device: str, dtype: torch.dtype, emulating: bool) -> bool:
    """Whether the kernel can run there: asked once, since asking a GPU costs more than a launch."""
    if device not in ("cuda", "cpu") or (device == "cpu" and not emulating):
        return False
    call = Call("sgd", device, dtype)
    return cuda_launch.unavailable() is None and cuda_launch.refuse(call) is None


def _as_laid(t: Tensor, p: Tensor) -> Tensor:
    """t, laid out in memory as p is: loaded state may not be."""
    return t if t.stride() == p.stride() else torch.empty_like(p, dtype=t.dtype).copy_(t)


def _dense(p: Tensor) -> bool:
    """Whether p's elements fill its memory without gaps, in any order of dimensions."""
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(p.stride(), p.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True
