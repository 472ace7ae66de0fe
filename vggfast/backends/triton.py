"""The triton backend: the kernels of ``vggfast.kernels``, for NVIDIA GPUs from Ampere on.

With ``TRITON_INTERPRET=1`` set before the first call the same kernels run on CPU tensors, thousands
of times slower: for checking numerics where there is no GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from vggfast.backends import cuda_conv
from vggfast.backends.base import Backend, Call
from vggfast.errors import InputError

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@lru_cache(maxsize=1)
def _ops() -> Any:
    """The kernels, loaded at the first use: importing triton costs seconds.

    They get the convolution in CUDA C++ to choose from, where a table has it.
    """
    external = importlib.import_module("vggfast.kernels.external")
    external.offer(external.Kernel(cuda_conv.unavailable, cuda_conv.run))
    return importlib.import_module("vggfast.kernels.ops")


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


class TritonBackend(Backend):
    """Serves conv3x3, maxpool2x2 and small FC layers in float16, bfloat16 and float32.

    Sums run in float32. How float32 products are made: :func:`set_fp32_precision`.
    """

    name = "triton"
    own_ops = frozenset({"conv3x3", "linear", "maxpool2x2"})
    fuses_chains = True

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
        if major >= 12:
            return (
                f"its kernels were not tried on compute capability {major}.{minor}, 11 is the last"
            )
        if major < 8:
            return f"its kernels need compute capability 8.0, this GPU has {major}.{minor}"
        return None

    def clear_weights(self) -> None:
        if "vggfast.kernels.kept" in sys.modules:
            sys.modules["vggfast.kernels.kept"].changed()

    def how(self, op: str, dtype: torch.dtype = torch.float32, weights: str = "fp32") -> str:
        if op in ("linear", "conv1x1") and weights == "fp32":
            return "own kernel (<= 16 rows, else torch's), backward torch's"
        kernel = super().how(op, dtype, weights)
        return f"{kernel}, backward in chains" if op == "conv3x3" else kernel

    def gemm(self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
        if not _ops().serves_linear(x, w):
            return super().gemm(x, w, b, relu)
        y: Tensor = _ops().linear(x, w, b, relu)
        return y

    def notes(self, op: str, device: str) -> list[str]:
        """Which tables of tiles serve the convolutions."""
        if op != "conv3x3":
            return []
        launch = importlib.import_module("vggfast.kernels.launch.gpu")
        tuned = importlib.import_module("vggfast.kernels.tuned")
        here = f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device
        gpu = launch.identity(torch.device(here))
        lines = [str(tuned.explained(gpu))]
        count = tuned.of_form("cuda", gpu)
        if count:
            reason = cuda_conv.unavailable()
            how = "built by nvcc for sm_90a" if reason is None else f"not used, {reason}"
            lines.append(f"{count} of these tiles are of CUDA C++: {how}")
        return lines

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

    def conv3x3_dz(
        self, grad: Tensor, y: Tensor, argmax: Tensor | None, size: tuple[int, int], need_db: bool
    ) -> tuple[Tensor, Tensor | None]:
        dz, db = _ops().conv3x3_dz(grad, y, argmax, *size, need_db)
        return dz, db

    def conv3x3_chain_step(
        self,
        dz: Tensor,
        x: Tensor,
        w: Tensor,
        argmax: Tensor | None,
        size: tuple[int, int],
        needs: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        below, dw, db = _ops().conv3x3_chain_step(dz, x, w, argmax, *size, needs)
        return below, dw, db

    def maxpool2x2(self, x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
        y, argmax = _ops().maxpool2x2(x, save_argmax)
        return y, argmax

    def maxpool2x2_backward(self, grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
        dx: Tensor = _ops().maxpool2x2_backward(grad, argmax, height, width)
        return dx


def _precision() -> Any:
    """The setting of the kernels, which needs no triton."""
    return importlib.import_module("vggfast.kernels.precision")


def set_fp32_precision(mode: str) -> None:
    """Choose how the Triton kernels make float32 products, for the whole process from now on.

    Args:
        mode: "tf32x3" (what holds at first): three products on the tensor cores, right to float32;
            "tf32": one, of numbers cut off after 11 bits, with errors near 1e-3; "ieee": float32's
            own products on the ordinary cores, several times slower; "torch": "tf32" where torch's
            own setting allows it (for convolutions by default, for FC layers not), else "tf32x3".
            The first layer of a network is always "ieee".

    Raises:
        InputError: another mode.
    """
    try:
        _precision().set(mode)
    except ValueError as error:
        raise InputError(str(error)) from None


def get_fp32_precision() -> str:
    """The mode of :func:`set_fp32_precision` that holds now."""
    mode: str = _precision().get()
    return mode


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
