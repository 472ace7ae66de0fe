"""Which kernels serve a call: one table, one selection function, one explanation.

A backend is chosen automatically by device, or forced by ``backend=`` or ``VGGFAST_BACKEND``
(the argument wins). The automatic choice may fall back, and :func:`explain` shows why; a forced
backend never does: it raises :class:`~vggfast.errors.BackendError` with the reason.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vggfast.backends.base import OPS, WEIGHTS, Backend, Call, Holding
from vggfast.backends.cpu import CpuBackend
from vggfast.backends.cpu_conv import exact
from vggfast.backends.cuda import CudaBackend
from vggfast.backends.eager import EagerBackend
from vggfast.backends.triton import TritonBackend, get_fp32_precision, set_fp32_precision
from vggfast.errors import BackendError, InputError

__all__ = [
    "OPS", "WEIGHTS", "Backend", "Call", "clear_weights", "exact", "explain", "get",
    "get_fp32_precision", "hold_weights", "names", "select", "set_fp32_precision",
]  # fmt: skip

# Construction has no side effect: what a backend needs is loaded when it is first asked.
_TABLE: dict[str, Backend] = {
    b.name: b for b in (EagerBackend(), CpuBackend(), TritonBackend(), CudaBackend())
}

# The automatic order by device type; a device that is not named gets eager. Triton's interpreter
# can run on a CPU tensor, but only when forced: it is thousands of times slower. cuda is left out
# because nothing says that it is faster.
_AUTOMATIC: dict[str, tuple[str, ...]] = {"cuda": ("triton", "eager"), "cpu": ("cpu", "eager")}


def names() -> tuple[str, ...]:
    """The names ``backend=`` and ``VGGFAST_BACKEND`` take, besides "auto"."""
    return tuple(_TABLE)


def get(name: str) -> Backend:
    """The backend called ``name``; :class:`InputError` if there is none."""
    if name not in _TABLE:
        raise InputError(f"backend: got {name!r}, allowed are auto, {', '.join(_TABLE)}")
    return _TABLE[name]


def forced_name(backend: str | None = None) -> str | None:
    """The backend forced by the argument or the environment, or None for the automatic choice."""
    name = backend or os.environ.get("VGGFAST_BACKEND") or None
    return None if name == "auto" else name


def select(call: Call, backend: str | None = None) -> Backend:
    """The backend that serves ``call``.

    Raises:
        BackendError: a forced backend cannot serve it; the message says why.
        InputError: no backend has that name.
    """
    return _select(call, forced_name(backend))


@lru_cache(maxsize=1024)
def _select(call: Call, forced: str | None) -> Backend:
    if forced is not None:
        chosen = get(forced)
        reason = why_not(chosen, call)
        if reason is not None:
            raise BackendError(f"backend {forced!r} was asked for {_describe(call)}, but {reason}")
        return chosen
    order = _AUTOMATIC.get(call.device, ("eager",))
    return next(b for b in map(get, order) if why_not(b, call) is None)


class Serving:
    """The backend that serves a call, whose kernels may find no memory for their workspace.

    Then the eager backend serves the call, if the choice was automatic, and :func:`explain` says
    so from then on; a forced backend raises :class:`BackendError`.
    """

    def __init__(self, call: Call, backend: str | None) -> None:
        self.call, self.forced = call, forced_name(backend)
        self.chosen = select(call, backend)
        self.name = self.chosen.name

    def __getattr__(self, kernel: str) -> Callable[..., Any]:
        run: Callable[..., Any] = getattr(self.chosen, kernel)

        def careful(*args: Any) -> Any:
            try:
                return run(*args)
            except MemoryError as error:
                if self.forced is not None or self.name == "eager":
                    raise BackendError(
                        f"backend {self.name!r} was asked for {_describe(self.call)}, but {error}"
                    ) from error
                _out_of_memory[self.call.op] = f"{self.name} once gave a call to eager: {error}"
                self.chosen = get("eager")
                self.name = self.chosen.name
            return getattr(self.chosen, kernel)(*args)

        return careful


_out_of_memory: dict[str, str] = {}  # by op, what happened last


def why_not(backend: Backend, call: Call) -> str | None:
    """Why ``backend`` cannot serve ``call``, or None if it can."""
    return backend.unavailable() or backend.refuse(call)


def clear_cache() -> None:
    """Forget past choices: for tests that change what a backend can do."""
    _select.cache_clear()
    _out_of_memory.clear()


def clear_weights() -> None:
    """Forget what was made of weights and kept for later calls, on every device.

    Kernels read weights in an order of their own, which is kept while the weights stay the same.
    Changes in place are seen, and so is any optimizer's step. What is not seen on a GPU is a write
    through ``.data``, by a foreign kernel, or by the replay of a CUDA graph of your own: call this
    after one. Graphs of :func:`vggfast.capture` pack their weights again then.
    """
    for backend in _TABLE.values():
        backend.clear_weights()


def hold_weights(weights: Iterable[Tensor]) -> Any:
    """A :class:`~vggfast.backends.base.Holding` of what the GPU's kernels make of ``weights``."""
    if all(_TABLE[name].unavailable() is not None for name in ("triton", "cuda")):
        return Holding()
    return importlib.import_module("vggfast.kernels.kept").Held(weights)


def explain(
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    weights: str = "fp32",
) -> str:
    """A table of every op: the backend that serves it, what runs, and why the others do not.

    Args:
        device: device type to explain; by default a GPU if torch sees one, else the CPU.
        dtype: the dtype of the activations.
        backend: as in :func:`select`; by default the environment's choice.
        weights: "bf16" for a model given to :func:`vggfast.store_weights`.

    Raises:
        InputError: no such ``weights``, or "bf16" with another dtype than float32.
    """
    if weights not in WEIGHTS:
        raise InputError(f"weights: got {weights!r}, allowed are {', '.join(WEIGHTS)}")
    if weights != "fp32" and dtype is not torch.float32:
        raise InputError(f"dtype: got {dtype} with weights={weights!r}, allowed is torch.float32")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(device).type
    forced = forced_name(backend)
    rows = [
        f"backends for {kind}, {_dtype_name(dtype)}"
        + (f", FC weights stored in {weights}" if weights != "fp32" else "")
        + (f", forced: {forced}" if forced else "")
    ]
    for op in OPS:
        call = Call(op, kind, dtype, c_in=64, c_out=64)
        try:
            chosen = select(call, backend)
            rows.append(f"  {op:<13} {chosen.name:<7} {chosen.how(op, dtype, weights)}")
            rows += [f"    {note}" for note in chosen.notes(op, kind)]
        except BackendError as error:
            chosen = None
            rows.append(f"  {op:<13} none    {error}")
        if op in _out_of_memory:
            rows.append(f"    {_out_of_memory[op]}")
        if op == OPS[0]:
            rows += [f"    not {b.name}: {reason}" for b, reason in _refusals(call, chosen)]
    return "\n".join(rows)


def _refusals(call: Call, chosen: Backend | None) -> list[tuple[Backend, str]]:
    order = _AUTOMATIC.get(call.device, ("eager",))
    out = []
    for b in _TABLE.values():
        if b is chosen:
            continue
        reason = why_not(b, call)
        if reason is None:
            reason = "not asked for" if b.name not in order else "another comes first"
        out.append((b, reason))
    return out


def _describe(call: Call) -> str:
    return f"{call.op} on {call.device} in {_dtype_name(call.dtype)}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
