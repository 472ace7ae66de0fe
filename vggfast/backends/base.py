"""What a backend is: the kernels behind the ops, and the reasons it gives when it cannot serve.

Layouts all backends share. Activations are (N, C, H, W) tensors in channels_last memory
(N, H, W, C). The argmax of a fused or separate 2x2 pool is uint8 of shape
(N, H//2, W//2, ceil(C/4)), contiguous: channel c holds 2 bits at position 2*(c % 4) of byte
c // 4, the value 2*dh + dw of the element that won: the last NaN of the window if there is one,
else the first maximum (torch's rule).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vggfast.backends import library

OPS = ("conv3x3", "maxpool2x2", "conv1x1", "lrn", "linear", "cross_entropy", "crop_images")


# How the weights of FC layers may be stored in float32 inference.
WEIGHTS = ("fp32", "bf16")


def stored(op: str, weights: str) -> bool:
    """Whether the weights of ``op`` are stored in bfloat16."""
    return op == "linear" and weights == "bf16"


@dataclass(frozen=True)
class Call:
    """The facts of a call that decide which backend can serve it (no data, so it is cheap)."""

    op: str
    device: str  # device type: "cpu", "cuda", ...
    dtype: torch.dtype
    c_in: int = 0
    c_out: int = 0


class Holding:
    """What is made of weights and kept where it is for a CUDA graph (here: nothing)."""

    nbytes = 0

    def use(self) -> AbstractContextManager[None]:
        """Within it, calls of this thread use what is held, and make what is missing."""
        return nullcontext()

    def refresh(self, force: bool = False) -> bool:
        """Make it anew in place if the weights may have changed; whether it did."""
        return False


class Backend:
    """Base of all backends.

    A kernel method gets checked, non-overlapping tensors of one dtype (but for ``gemm``'s w) and
    device: activations in channels_last memory, weights and biases contiguous. It returns new
    tensors, activations in channels_last memory. What a backend does not override is served by
    torch's own library (cuBLAS, oneDNN); ``how`` tells a reader which of the two it is.
    """

    name: str = ""
    own_ops: frozenset[str] = frozenset()  # the ops this backend has kernels of its own for
    # Whether conv3x3_chain_step is one fused kernel a gradient here, so that a run of layers
    # is better one op (ops/chain.py) than one op a layer.
    fuses_chains: bool = False

    def unavailable(self) -> str | None:
        """Why this backend cannot be used on this machine at all, or None if it can."""
        raise NotImplementedError  # pragma: no cover - every backend overrides it

    def refuse(self, call: Call) -> str | None:
        """Why this backend cannot serve ``call``, or None if it can. Must be cheap."""
        raise NotImplementedError  # pragma: no cover - every backend overrides it

    def how(self, op: str, dtype: torch.dtype = torch.float32, weights: str = "fp32") -> str:
        """One phrase for ``explain``: what runs when this backend serves ``op``.

        ``weights``: how FC layers store theirs, a key of ``WEIGHTS``.
        """
        kernel = "own kernel" if op in self.own_ops else "torch's library kernel"
        return f"{kernel} (weights bf16, widened each time)" if stored(op, weights) else kernel

    def clear_weights(self) -> None:
        """Forget what was made of weights and kept: they may have changed unseen."""

    def notes(self, op: str, device: str) -> list[str]:
        """Lines for ``explain`` under ``op``: what else decides how it runs here."""
        return []

    def conv3x3_error(self, quantity: str, size: tuple[int, ...], c_out: int, pool: bool) -> float:
        """The relative rms error of a fast algorithm, beside that of plain sums in fp32.

        ``quantity`` is y, dx, dw or db; ``size`` is x's (N, C_in, H, W). 0 for a direct algorithm.
        docs/numerics.md states where each figure comes from.
        """
        return 0.0

    def conv3x3(
        self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool
    ) -> tuple[Tensor, Tensor | None]:
        """y = pool2x2?(relu?(conv(x, w, stride 1, padding 1) + b)).

        x (N, C_in, H, W) in channels_last memory, w (C_out, C_in, 3, 3) of any strides (what is
        kept of weights is told by their own storage), b (C_out,) or None; returns y
        (N, C_out, H, W), or (N, C_out, H//2, W//2) with ``pool``, and the packed argmax when
        ``pool`` and ``save_argmax``, else None.
        """
        raise NotImplementedError

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
        """Gradients (dx, dw, db) of :meth:`conv3x3`; None where ``needs`` is False.

        ``grad`` has y's shape; ``y`` is given when ``relu`` (the mask is ``not y <= 0``, so a NaN
        passes the gradient on, as torch does); ``argmax`` is given when ``pool``. Where no dw is
        needed, ``x`` has the right shape but no data (strides of 0): a frozen layer keeps no x.
        dw is contiguous (C_out, C_in, 3, 3).
        """
        raise NotImplementedError

    def conv3x3_dz(
        self, grad: Tensor, y: Tensor, argmax: Tensor | None, size: tuple[int, int], need_db: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Through ReLU and pool back to the convolution's sums: dz (N, C, H, W) and db or None.

        ``grad`` and ``y`` belong to the layer's output; ``argmax`` is given when it has a pool, and
        ``size`` is (H, W), that of its map.
        """
        grad = torch.where(y <= 0, 0, grad)
        db = grad.sum((0, 2, 3)) if need_db else None
        dz = grad if argmax is None else self.maxpool2x2_backward(grad, argmax, *size)
        return to_channels_last(dz), db

    def conv3x3_chain_step(
        self,
        dz: Tensor,
        x: Tensor,
        w: Tensor,
        argmax: Tensor | None,
        size: tuple[int, int],
        needs: tuple[bool, bool],
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """From dz of a layer to dz of the one below it, whose output ``x`` (after a ReLU) is.

        ``argmax`` is given when the layer below has a pool; ``size`` is (H, W) of its map. Returns
        the dz (N, C_in, H, W) of the layer below, this layer's dw and the db of the layer below,
        the last two None where ``needs`` is False. A backend that ``fuses_chains`` does it in two
        GEMMs; here it is :meth:`conv3x3_backward`, then :meth:`conv3x3_dz`.
        """
        dx, dw, _ = self.conv3x3_backward(
            dz, x, w, None, None, False, False, (True, needs[0], False)
        )
        assert dx is not None, "conv3x3_backward was asked for dx"
        below, db = self.conv3x3_dz(dx, x, argmax, size, needs[1])
        return below, dw, db

    def gemm(self, x: Tensor, w: Tensor, b: Tensor | None, relu: bool) -> Tensor:
        """y = relu?(x w^T + b): x (M, K), w (O, K), b (O,) or None, y (M, O), all row-major.

        Serves ``conv1x1`` and ``linear``, whose best kernel is the library's GEMM. w may be
        bfloat16 beside a float32 x; the result is that of its values in float32.
        """
        w = w.to(x.dtype)
        y = torch.mm(x, w.t()) if b is None else torch.addmm(b, x, w.t())
        return y.relu_() if relu else y

    def gemm_backward(
        self, grad: Tensor, x: Tensor, w: Tensor, y: Tensor | None, needs: tuple[bool, bool, bool]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients (dx, dw, db) of :meth:`gemm`; ``y`` is given when it had a ReLU."""
        if y is not None:
            grad = torch.where(y <= 0, 0, grad)
        return (
            torch.mm(grad, w) if needs[0] else None,
            torch.mm(grad.t(), x) if needs[1] else None,
            grad.sum(0) if needs[2] else None,
        )

    def maxpool2x2(self, x: Tensor, save_argmax: bool) -> tuple[Tensor, Tensor | None]:
        """y (N, C, H//2, W//2), the maximum of each 2x2 window, and the packed argmax or None."""
        raise NotImplementedError

    def maxpool2x2_backward(self, grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
        """dx (N, C, height, width): ``grad`` at each window's winner, zero elsewhere."""
        raise NotImplementedError

    def lrn(self, x: Tensor, n: int, k: float, alpha: float, beta: float) -> Tensor:
        """y (N, C, H, W) of ``ops.lrn``; sums in float32 at least."""
        return empty_as(x).copy_(library.lrn(x, n, k, alpha, beta))

    def lrn_backward(
        self, grad: Tensor, x: Tensor, n: int, k: float, alpha: float, beta: float
    ) -> Tensor:
        """dx (N, C, H, W) of :meth:`lrn`."""
        return empty_as(x).copy_(library.lrn_backward(grad, x, n, k, alpha, beta))

    def cross_entropy(
        self, logits: Tensor, labels: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        """The mean loss () and, for backward, ``kept`` (N, 2).

        That is, of each row, the largest logit and the log of the sum of exp(x - largest).

        logits (N, K), row-major, N, K >= 1; labels (N,) int64. Both results are float32, float64
        for such logits. A label outside 0 ... K - 1 makes the loss NaN.
        """
        return library.cross_entropy(logits, labels, smoothing)

    def cross_entropy_backward(
        self, grad: Tensor, logits: Tensor, labels: Tensor, kept: Tensor, smoothing: float
    ) -> Tensor:
        """The gradient of the logits (N, K), row-major; ``grad`` () is that of the mean loss."""
        return library.cross_entropy_backward(grad, logits, labels, kept, smoothing)

    def crop_images(
        self,
        images: Tensor,
        crops: Tensor,
        size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype,
    ) -> Tensor:
        """Normalised crops (N, 3, rows, columns) of ``size`` from packed bytes of RGB images.

        ``images``: uint8, contiguous; ``crops``: uint8 (N, 48), the structs of csrc/common/crop.h,
        on the device of ``images``, found to lie within them.
        """
        like = torch.empty(0, dtype=dtype, device=images.device)
        out = channels_last_empty(crops.shape[0], 3, *size, like)
        return out.copy_(library.crop_images(images, crops, size, mean, std))


def channels_last_empty(n: int, c: int, h: int, w: int, like: Tensor) -> Tensor:
    """An uninitialised (n, c, h, w) channels_last tensor, dtype and device of ``like``."""
    return torch.empty(
        (n, c, h, w), dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def empty_as(x: Tensor) -> Tensor:
    """An uninitialised channels_last tensor of the shape, dtype and device of x (N, C, H, W)."""
    n, c, h, w = x.shape
    return channels_last_empty(n, c, h, w, x)


def to_channels_last(x: Tensor) -> Tensor:
    """``x`` with exactly channels_last strides; a copy only where the memory is laid out otherwise.

    ``contiguous(memory_format=...)`` is not enough: with one channel or one pixel it keeps
    ambiguous strides, and an op whose output strides vary disagrees with its fake kernel.
    """
    n, c, h, w = x.shape
    if x.stride() == (h * w * c, 1, w * c, c):
        return x
    if x.permute(0, 2, 3, 1).is_contiguous():  # same memory, other strides on axes of size 1
        return x.as_strided((n, c, h, w), (h * w * c, 1, w * c, c))
    return channels_last_empty(n, c, h, w, x).copy_(x)
