"""The triton backend: the kernels of ``vggfast.kernels``, for NVIDIA GPUs from Ampere on.

With ``TRITON_INTERPRET=1`` set before the first call the same kernels run on CPU tensors, thousands
of times slower: for checking numerics where there is no GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from vggfast.backends.base import Backend, Call

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _ops() -> Any:
    """The kernels, loaded at the first use: importing triton costs seconds."""
    return importlib.import_module("vggfast.kernels.ops")


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


class TritonBackend(Backend):
    """Serves conv3x3 and maxpool2x2 in float16, bfloat16 and float32.

    Sums run in float32. Products of float32 are IEEE products, never TF32, even where torch's
    ``allow_tf32`` is on: the honest default, slower than cuDNN with TF32.
    """

    name = "triton"
    own_ops = frozenset({"conv3x3", "maxpool2x2"})

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if not torch.cuda.is_available() and not _interpreting():
            return "there is no NVIDIA GPU (nor TRITON_INTERPRET=1)"
        try:
            interpreted = _ops().INTERPRETED
        except ImportError as error:
            return f"its kernels cannot be imported: {error}"
        if interpreted != _interpreting():
            when = "set" if _interpreting() else "unset"
            return f"TRITON_INTERPRET was {when} after its kernels were loaded"
        return None

    def refuse(self, call: Call) -> str | None:
        if call.dtype not in _DTYPES:
            return f"its kernels take float16, bfloat16 and float32, not {_short(call.dtype)}"
        if _interpreting():
            if call.device != "cpu":
                return f"TRITON_INTERPRET=1 runs CPU tensors, not {call.device}"
            if call.dtype == torch.bfloat16:
                return "triton's interpreter multiplies bfloat16 wrongly"
            return None
        if call.device != "cuda":
            return f"its kernels run on NVIDIA GPUs, not on {call.device}"
        if torch.version.hip is not None:
            return "its kernels are for NVIDIA GPUs, this torch is built for AMD's"
        major, minor = torch.cuda.get_device_capability()
        if major < 8:
            return f"its kernels need compute capability 8.0, this GPU has {major}.{minor}"
        return None

    def notes(self, op: str, device: str) -> list[str]:
        """Which tables of tiles serve the convolutions."""
        if op != "conv3x3":
            return []
        launch = importlib.import_module("vggfast.kernels.launch.gpu")
        tuned = importlib.import_module("vggfast.kernels.tuned")
        here = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device
        return [str(tuned.explained(launch.identity(torch.device(here))))]

    def conv3x3(
        self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        y, argmax = _ops().conv3x3(x, w, b, relu, pool, save_argmax)
        return y, argmax

    def conv3x3_backward(
        self,
        grad: Tensor,
        x: Tensor,
        w: Tensor,
        y: Tensor | None,
        argmax: Tensor | None,
        relu: bool,
        pool: bool,
        needs: tuple[bool, bool, bool],
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        assert not relu or y is not None, "conv3x3_backward with relu needs y"
        assert not pool or argmax is not None, "conv3x3_backward with pool needs the argmax"
        dx, dw, db = _ops().conv3x3_backward(
            grad, x, w, y if relu else None, argmax if pool else None, needs
        )
        return dx, dw, db

    def maxpool2x2(self, x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
        y, argmax = _ops().maxpool2x2(x, save_argmax)
        return y, argmax

    def maxpool2x2_backward(self, grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
        dx: Tensor = _ops().maxpool2x2_backward(grad, argmax, height, width)
        return dx


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
