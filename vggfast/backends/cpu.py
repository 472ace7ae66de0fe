"""The cpu backend: kernels of the native extension, in float32 (AMX, AVX-512, AVX2 or any CPU)
and bfloat16 (AMX or AVX512-BF16)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vggfast.backends import cpu_bf16, cpu_conv, cpu_weights, native
from vggfast.backends.base import Backend, Call, stored
from vggfast.backends.cpu_bf16 import pointer
from vggfast.backends.cpu_conv import ERROR, Algorithm, choose, choose_wgrad
from vggfast.backends.cpu_memory import empty, empty_map
from vggfast.backends.eager import EagerBackend

# The FC kernels read the weights once, whatever the batch; above these torch's GEMM is faster.
MOST_ROWS, MOST_ROWS_BACKWARD = 32, 16
IMAGE_CHANNELS = 3  # the most of a first layer's input, whose dgrad has a kernel of its own
_LIBRARY = EagerBackend()


class CpuBackend(Backend):
    """Convolution by Winograd or as an implicit GEMM; FC layers of a small batch.

    All on ``torch.get_num_threads()`` threads. In bfloat16 the gradients of convolutions and FC
    layers are torch's.
    """

    name = "cpu"
    own_ops = frozenset({"conv3x3", "maxpool2x2", "linear"})

    def unavailable(self) -> str | None:
        return native.why_missing()

    def refuse(self, call: Call) -> str | None:
        if call.device != "cpu":
            return f"it runs on cpu tensors only, not {call.device}"
        if call.op not in self.own_ops or call.dtype is torch.float32:
            return None
        if call.dtype is torch.bfloat16:
            return _config()["bf16_why_not"]
        name = str(call.dtype).removeprefix("torch.")
        return f"its kernels are float32 and bfloat16 only, not {name}"

    def how(self, op: str, dtype: torch.dtype = torch.float32, weights: str = "fp32") -> str:
        if op not in self.own_ops:
            return super().how(op, dtype, weights)
        if dtype is torch.bfloat16:
            kernel = f"own {_config()['bf16_isa']} kernel"
            few = f" (batch <= {cpu_bf16.MOST_ROWS}, else torch's)" if op == "linear" else ""
            return kernel + few + ("" if op == "maxpool2x2" else ", backward torch's")
        kernel = f"own {_config()['cpu_isa']} kernel"
        if op == "conv3x3":
            return f"{kernel} ({cpu_conv.how()})"
        if op != "linear":
            return kernel
        if stored(op, weights):
            return f"{kernel} (weights bf16; batch <= {MOST_ROWS}, else widened for torch's)"
        return f"{kernel} (batch <= {MOST_ROWS}, backward <= {MOST_ROWS_BACKWARD}, else torch's)"

    def clear_weights(self) -> None:
        cpu_weights.clear()

    def conv3x3_error(self, quantity: str, size: tuple[int, ...], c_out: int, pool: bool) -> float:
        n, c_in, h, w = size
        if quantity == "y":
            return ERROR[choose(n, h, w, c_in, c_out, pool).name]
        if quantity == "dx":
            return ERROR[choose(n, h, w, c_out, c_in).name]
        return ERROR[choose_wgrad(n, h, w, c_in, c_out).name] if quantity == "dw" else 0.0

    def conv3x3(
        self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        w = cpu_weights.dense(w)
        (n, c_in, h, width), c_out = x.shape, w.shape[0]
        size = (n, c_out, h // 2, width // 2) if pool else (n, c_out, h, width)
        argmax = _argmax_empty(*size) if pool and save_argmax else None
        if x.dtype is torch.bfloat16:
            return cpu_bf16.conv3x3(x, w, b, relu, pool, argmax), argmax
        y = empty_map(*size)
        lib, threads = native.module(), torch.get_num_threads()
        sizes = (n, h, width, c_in, c_out, relu, pool)
        how = choose(n, h, width, c_in, c_out, pool)
        if how.m == 0:
            lib.conv3x3(
                x.data_ptr(), w.data_ptr(), pointer(b), y.data_ptr(), pointer(argmax),
                *sizes, threads,
            )  # fmt: skip
        else:
            u = cpu_weights.transformed(w, how.m, how.split, False, threads)
            lib.conv3x3_winograd(
                x.data_ptr(), w.data_ptr(), pointer(u), pointer(b), y.data_ptr(),
                pointer(argmax), *sizes, how.m, how.split, how.tiles, how.outputs, threads,
            )  # fmt: skip
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
        if grad.dtype is torch.bfloat16:
            return _LIBRARY.conv3x3_backward(grad, x, w, y, argmax, relu, pool, needs)
        w = cpu_weights.dense(w)
        (n, c_in, h, width), c_out = x.shape, w.shape[0]
        sizes, threads = (n, h, width, c_in, c_out), torch.get_num_threads()
        dgrad = choose(n, h, width, c_out, c_in) if needs[0] else None
        wgrad = choose_wgrad(*sizes) if needs[1] else None
        used = [how for how in (dgrad, wgrad) if how is not None]
        # Winograd reads a pooled gradient as it is; without ReLU and pool it is dz already.
        unpools = pool and all(how.m > 0 for how in used)
        # The kernel for an image applies the ReLU's mask itself.
        masks = relu and not pool and wgrad is None and dgrad is not None and _of_image(dgrad, c_in)
        makes_dz = (relu or pool) and not (unpools or masks) and len(used) > 0
        dz = empty_map(n, c_out, h, width) if makes_dz else grad
        db = grad.new_empty(c_out) if needs[2] else None
        if makes_dz or db is not None:
            native.module().conv3x3_dz(
                grad.data_ptr(), pointer(y), pointer(argmax), dz.data_ptr() if makes_dz else 0,
                pointer(db), n, h, width, c_out, threads,
            )  # fmt: skip
        source = _Gradient(dz, y, argmax) if unpools or masks else _Gradient(dz)
        dx = None if dgrad is None else _dgrad(dgrad, source, w, sizes)
        dw = None if wgrad is None else _wgrad(wgrad, source, x, sizes)
        return dx, dw, db

    def gemm(self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
        (m, k), o = x.shape, w.shape[0]
        if _bf16_kernels(x) and _few_rows(x, w, cpu_bf16.MOST_ROWS):
            return cpu_bf16.linear(x, w, b, relu)
        if x.dtype is not torch.float32 or not _few_rows(x, w, MOST_ROWS):
            return super().gemm(x, w, b, relu)
        b = None if b is None else b.contiguous()
        y = empty((m, o))
        lib = native.module()
        (lib.linear if w.dtype is torch.float32 else lib.linear_bf16_weights)(
            x.data_ptr(), w.data_ptr(), pointer(b), y.data_ptr(), m, k, o, relu,
            torch.get_num_threads(),
        )  # fmt: skip
        return y

    def gemm_backward(
        self, grad: Tensor, x: Tensor, w: Tensor, y: Tensor | None, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        if grad.dtype is not torch.float32:
            return super().gemm_backward(grad, x, w, y, needs)
        if y is not None:
            grad = torch.where(y <= 0, 0, grad)
        # Where a gradient is not asked for, x or w is not there.
        (m, o), k = grad.shape, x.shape[1] if needs[1] else w.shape[1]
        dx = empty((m, k)) if needs[0] else None
        dw = empty((o, k)) if needs[1] else None
        if _few_rows(grad, x if needs[1] else w, MOST_ROWS_BACKWARD):
            lib, threads = native.module(), torch.get_num_threads()
            grad = grad.contiguous()
            if dx is not None:
                lib.linear_dgrad(grad.data_ptr(), w.data_ptr(), dx.data_ptr(), m, k, o, threads)
            if dw is not None:
                lib.linear_wgrad(grad.data_ptr(), x.data_ptr(), dw.data_ptr(), m, k, o, threads)
        else:
            dx = None if dx is None else torch.mm(grad, w, out=dx)
            dw = None if dw is None else torch.mm(grad.t(), x, out=dw)
        return dx, dw, grad.sum(0) if needs[2] else None

    def maxpool2x2(self, x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
        n, c, h, width = x.shape
        y = empty_map(n, c, h // 2, width // 2, x.dtype)
        argmax = _argmax_empty(n, c, h // 2, width // 2) if save_argmax else None
        lib = native.module()
        (lib.bf16_maxpool2x2 if x.dtype is torch.bfloat16 else lib.maxpool2x2)(
            x.data_ptr(), y.data_ptr(), pointer(argmax), n, h, width, c, torch.get_num_threads()
        )
        return y, argmax

    def maxpool2x2_backward(self, grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
        n, c = grad.shape[:2]
        dx = empty_map(n, c, height, width, grad.dtype)
        lib, bf16 = native.module(), grad.dtype is torch.bfloat16
        (lib.bf16_maxpool2x2_backward if bf16 else lib.maxpool2x2_backward)(
            grad.data_ptr(), argmax.data_ptr(), dx.data_ptr(),
            n, height, width, c, torch.get_num_threads(),
        )  # fmt: skip
        return dx


def _of_image(dgrad: Algorithm, c_in: int) -> bool:
    """Whether the kernel for a first layer (csrc/cpu/image_dgrad.inc) serves a dgrad."""
    return dgrad.m == 0 and c_in <= IMAGE_CHANNELS


class _Gradient(NamedTuple):
    """dz (N, C_out, H, W); or what it is made from on the way: with ``argmax`` the pooled gradient
    (Winograd), with ``y`` alone the gradient behind the ReLU (an image's dgrad)."""

    grad: Tensor
    y: Tensor | None = None
    argmax: Tensor | None = None

    def pointers(self) -> tuple[int, int, int]:
        return self.grad.data_ptr(), pointer(self.y), pointer(self.argmax)


# (N, H, W, C_in, C_out)
_Sizes = tuple[int, int, int, int, int]


def _dgrad(how: Algorithm, dz: _Gradient, w: Tensor, sizes: _Sizes) -> Tensor:
    """dx (N, C_in, H, W) from dz and w (C_out, C_in, 3, 3)."""
    n, h, width, c_in, _ = sizes
    lib, threads = native.module(), torch.get_num_threads()
    dx = empty_map(n, c_in, h, width)
    if how.m == 0:
        lib.conv3x3_dgrad(
            dz.grad.data_ptr(), pointer(dz.y), w.data_ptr(), dx.data_ptr(), *sizes, threads
        )
    else:
        u = cpu_weights.transformed(w, how.m, how.split, True, threads)
        lib.conv3x3_dgrad_winograd(
            *dz.pointers(), w.data_ptr(), pointer(u), dx.data_ptr(),
            *sizes, how.m, how.split, how.tiles, how.outputs, threads,
        )  # fmt: skip
    return dx


def _wgrad(how: Algorithm, dz: _Gradient, x: Tensor, sizes: _Sizes) -> Tensor:
    """dw (C_out, C_in, 3, 3) from x (N, C_in, H, W) and dz."""
    lib, threads = native.module(), torch.get_num_threads()
    dw = empty((sizes[4], sizes[3], 3, 3))
    if how.m == 0:
        lib.conv3x3_wgrad(x.data_ptr(), dz.grad.data_ptr(), dw.data_ptr(), *sizes, threads)
    else:
        lib.conv3x3_wgrad_winograd(
            x.data_ptr(),
            *dz.pointers(),
            dw.data_ptr(),
            *sizes,
            how.m,
            how.split,
            how.tiles,
            threads,
        )
    return dw


def _few_rows(x: Tensor, other: Tensor, most: int) -> bool:
    """Whether the kernels for a small batch serve a product of these two."""
    return 1 <= x.shape[0] <= most and x.numel() > 0 and other.numel() > 0


def _bf16_kernels(x: Tensor) -> bool:
    return x.dtype is torch.bfloat16 and _config()["bf16_isa"] is not None


@lru_cache(maxsize=1)
def _config() -> dict[str, Any]:
    config: dict[str, Any] = native.module().build_config()
    return config


def _argmax_empty(n: int, c: int, h: int, w: int) -> Tensor:
    return torch.empty((n, h, w, (c + 3) // 4), dtype=torch.uint8)
