"""The CUDA C++ kernels, each against torch's own, or against Triton's convolution.

A case builds its tensors for a number of images; ``ours``, each of ``theirs`` and ``exact``, in
float64, return the same results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from vggfast.kernels import tiles, tuned

from harness.cuda_case import Built, Case, Results, Where
from vggfast import backends, configs, reference
from vggfast.backends import cuda_conv, cuda_kernels, cuda_sgd
from vggfast.backends.cuda import CudaBackend
from vggfast.backends.eager import EagerBackend
from vggfast.backends.library import CROP

LRN = (5, 2.0, 1e-4, 0.75)
SGD = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
MEAN, STD = (123.68, 116.78, 103.94), (58.4, 57.1, 57.4)
COPY, TORCH = 0.85, 1.3  # shares of copy bandwidth and of torch's speed that are asked for


def cases(at: Where) -> Iterator[Case]:
    """Every kernel once; convolutions of many channels a layer of VGG-E each."""
    wide = (COPY, TORCH)
    yield Case("maxpool2x2 64 ch.", 64, lambda n: _pool(at, n), wide, exactly=True)
    yield Case(
        "maxpool2x2 backward 64 ch.", 64, lambda n: _pool_backward(at, n), wide, exactly=True
    )
    yield Case("lrn 64 ch.", 64, lambda n: _lrn(at, n), wide)
    yield Case("lrn backward 64 ch.", 64, lambda n: _lrn_backward(at, n), wide)
    yield Case("crop_images", 256, lambda n: _crops(at, n), wide)
    for net in ("A", "D"):
        yield Case(f"sgd VGG-{net}", 1, lambda n, net=net: _sgd(at, net), wide)  # type: ignore[misc]
    yield Case("cross_entropy", 256, lambda n: _cross_entropy(at, n))
    yield Case("conv1_1", 64, lambda n: _first(at, n), (None, 2.0))
    yield Case("conv1_1 wgrad", 64, lambda n: _first_wgrad(at, n))
    seen = set()
    for layer in configs.conv_layers("E", at.side)[1:]:
        shape = (layer.c_in, layer.c_out, layer.h, layer.pool)
        if layer.op != "conv3x3" or shape in seen:
            continue
        seen.add(shape)
        absent = cuda_conv.unavailable() or cuda_conv.refuse(layer.c_in, layer.c_out, at.dtype)
        least = 1.0 if min(layer.c_in, layer.c_out) >= 256 else None
        yield Case(
            layer.name, 64, lambda n, layer=layer: _conv(at, n, layer), (None, least),  # type: ignore[misc]
            absent, hangs=True,
        )  # fmt: skip


def _pool(at: Where, n: int) -> Built:
    x = at.map(n, 64, at.side)

    def by_torch() -> Sequence[Tensor]:  # with indices, which its backward needs as ours the argmax
        return (torch.ops.aten.max_pool2d_with_indices(x, [2, 2], [2, 2])[0],)

    return Built(
        lambda: cuda_kernels.maxpool2x2(x, True)[:1], {"torch": by_torch},
        lambda: (reference.maxpool2x2(x.double()),), x.nbytes + x.nbytes // 4 + x.numel() // 16,
    )  # fmt: skip


def _pool_backward(at: Where, n: int) -> Built:
    x = at.map(n, 64, at.side)
    _, codes = cuda_kernels.maxpool2x2(x, True)
    assert codes is not None
    y, indices = torch.ops.aten.max_pool2d_with_indices(x, [2, 2], [2, 2])
    grad = torch.randn_like(y)

    def by_torch() -> Sequence[Tensor]:
        return (
            torch.ops.aten.max_pool2d_with_indices_backward(
                grad, x, [2, 2], [2, 2], [0, 0], [1, 1], False, indices
            ),
        )

    return Built(
        lambda: (cuda_kernels.maxpool2x2_backward(grad, codes, *x.shape[2:]),),
        {"torch": by_torch}, lambda: _gradient(reference.maxpool2x2, x, grad),
        x.nbytes + grad.nbytes + codes.nbytes,
    )  # fmt: skip


def _lrn(at: Where, n: int) -> Built:
    x = at.map(n, 64, at.side)
    return Built(
        lambda: (cuda_kernels.lrn(x, *LRN),), {"torch": lambda: (_torch_lrn(x),)},
        lambda: (reference.lrn(x.double(), *LRN),), 2 * x.nbytes,
    )  # fmt: skip


def _lrn_backward(at: Where, n: int) -> Built:
    x, grad = at.map(n, 64, at.side), at.map(n, 64, at.side)
    leaf = x.detach().requires_grad_()
    y = _torch_lrn(leaf)
    return Built(
        lambda: (cuda_kernels.lrn_backward(grad, x, *LRN),),
        {"torch": lambda: torch.autograd.grad(y, leaf, grad, retain_graph=True)},
        lambda: _gradient(lambda t: reference.lrn(t, *LRN), x, grad), 3 * x.nbytes,
    )  # fmt: skip


def _torch_lrn(x: Tensor) -> Tensor:
    n, k, alpha, beta = LRN
    return F.local_response_norm(x, n, n * alpha, beta, k)  # torch divides alpha by n


def _gradient(function: Callable[[Tensor], Tensor], x: Tensor, grad: Tensor) -> Sequence[Tensor]:
    leaf = x.detach().double().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf, grad.double())


def _crops(at: Where, n: int) -> Built:
    """Crops, some mirrored, of images an eighth larger; torch gathers, then works in place."""
    side, whole = at.side, at.side + at.side // 8
    images = torch.randint(0, 256, (n, whole, whole, 3), dtype=torch.uint8, device=at.device)
    corners = torch.randint(0, whole - side + 1, (n, 2))
    flips = torch.arange(n) % 2 == 1
    steps = torch.arange(side)
    rows = (corners[:, :1] + steps)[:, :, None].to(at.device)
    columns = corners[:, 1:] + torch.where(flips[:, None], side - 1 - steps, steps)
    columns = columns[:, None, :].to(at.device)
    of = torch.arange(n, device=at.device)[:, None, None]
    mean, std = (torch.tensor(v, device=at.device) for v in (MEAN, STD))
    table = np.zeros(n, CROP)
    table["offset"], table["stride"] = np.arange(n) * images[0].numel(), 3 * whole
    table["height"], table["width"], table["flip"] = whole, whole, flips.numpy()
    table["y"], table["x"] = corners.numpy().T
    crops = torch.from_numpy(table.view(np.uint8).reshape(n, CROP.itemsize)).to(at.device)
    size = (side, side)

    def by_torch(dtype: torch.dtype = torch.float32) -> Tensor:
        picked = images[of, rows, columns].to(dtype)
        return picked.sub_(mean).div_(std).permute(0, 3, 1, 2)

    return Built(
        lambda: (cuda_kernels.crop_images(images, crops, size, MEAN, STD, at.dtype),),
        {"torch": lambda: (by_torch().to(at.dtype),)}, lambda: (by_torch(torch.float64),),
        n * side * side * 3 * (1 + at.dtype.itemsize),
    )  # fmt: skip


def _sgd(at: Where, net: str) -> Built:
    """One step on all parameters. Sixteen bits: float32 masters, which torch then copies."""
    sizes = [s for layer in configs.layers(net) for s in _parameters(layer, at.width)]
    grads = [at.normal(*s) for s in sizes]
    starts = [torch.randn(s, device=at.device) for s in sizes]
    half = at.dtype is not torch.float32

    def fresh() -> tuple[list[Tensor], list[Tensor]]:
        return [s.clone() for s in starts], [torch.zeros_like(s) for s in starts]

    params, buffers = fresh()
    copies = [p.to(at.dtype) if half else None for p in params]
    step = cuda_sgd.Step(SGD["lr"], SGD["momentum"], 0.0, SGD["weight_decay"], False, False)
    table = [
        cuda_sgd.Tensors(p, g, b, c, False)
        for p, g, b, c in zip(params, grads, buffers, copies, strict=True)
    ]

    def ours() -> Sequence[Tensor]:
        cuda_sgd.update(table, step)
        return params

    theirs = {f"torch {how}": _torch_sgd(fresh()[0], grads, how, half)
              for how in ("foreach", "fused")}  # fmt: skip

    def exact() -> Sequence[Tensor]:
        return [s.double() - SGD["lr"] * (g.double() + SGD["weight_decay"] * s.double())
                for s, g in zip(starts, grads, strict=True)]  # fmt: skip

    count = sum(s.numel() for s in starts)
    # Gradient; weights and buffers, read and written; the rounded copy.
    return Built(ours, theirs, exact, count * (at.dtype.itemsize + 16 + (2 if half else 0)))


def _parameters(layer: configs.Layer, width: int) -> list[tuple[int, ...]]:
    if layer.op not in ("conv3x3", "conv1x1", "linear"):
        return []
    c_out, c_in = max(1, layer.c_out // width), max(1, layer.c_in // width)
    kernel = {"conv3x3": (3, 3), "conv1x1": (1, 1)}.get(layer.op, ())
    return [(c_out, c_in, *kernel), (c_out,)]


def _torch_sgd(params: list[Tensor], grads: list[Tensor], how: str, half: bool) -> Results:
    leaves = [p.requires_grad_() for p in params]
    wide = [g.float() for g in grads]
    for p, g in zip(leaves, wide, strict=True):
        p.grad = g
    rounded = [g.clone() for g in grads]
    optimizer = torch.optim.SGD(
        leaves, SGD["lr"], SGD["momentum"], weight_decay=SGD["weight_decay"],
        foreach=how == "foreach", fused=how == "fused",
    )  # fmt: skip

    def step() -> Sequence[Tensor]:
        if half:  # what a loop with masters does besides: gradients widened, weights rounded
            torch._foreach_copy_(wide, grads)
        optimizer.step()
        if half:
            torch._foreach_copy_(rounded, [p.detach() for p in leaves])
        return [p.detach() for p in leaves]

    return step


def _cross_entropy(at: Where, n: int) -> Built:
    """Forward and backward of 1000 classes."""
    x = at.normal(n, 1000 // at.width)
    labels = torch.randint(0, x.shape[1], (n,), device=at.device)
    one = torch.ones((), device=at.device)
    leaf = x.detach().requires_grad_()

    def ours() -> Sequence[Tensor]:
        loss, kept = cuda_kernels.cross_entropy(x, labels, 0.0)
        return loss, cuda_kernels.cross_entropy_backward(one, x, labels, kept, 0.0)

    def plain(logits: Tensor) -> Sequence[Tensor]:
        loss = F.cross_entropy(logits, labels)
        return loss.detach(), *torch.autograd.grad(loss, logits)

    return Built(
        ours, {"torch": lambda: plain(leaf)},
        lambda: plain(x.detach().double().requires_grad_()), 3 * x.nbytes,
    )  # fmt: skip


def _first(at: Where, n: int) -> Built:
    x, w, b = at.map(n, 3, at.side), at.normal(64, 3, 3, 3, scale=0.27), at.normal(64)
    return Built(
        lambda: (cuda_kernels.first_conv(x, w, b, True),),
        {"torch": lambda: (F.relu_(F.conv2d(x, w, b, padding=1)),)},
        lambda: (reference.conv3x3(x.double(), w.double(), b.double(), True),),
        x.nbytes + n * at.side**2 * 64 * at.dtype.itemsize, 2 * 27 * 64 * n * at.side**2,
    )  # fmt: skip


def _first_wgrad(at: Where, n: int) -> Built:
    x, w, grad = at.map(n, 3, at.side), at.normal(64, 3, 3, 3), at.map(n, 64, at.side)
    y = at.map(n, 64, at.side).relu_()

    def by_torch(*given: Tensor) -> Sequence[Tensor]:
        g, t, weight = given
        how = ([64], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [False, True, True])
        masked = torch.ops.aten.threshold_backward(g, y.to(g.dtype), 0)
        return torch.ops.aten.convolution_backward(masked, t, weight, *how)[1:]

    def ours() -> Sequence[Tensor]:
        dw, db = cuda_kernels.first_conv_wgrad(grad, x, y, 64, True, True)
        assert dw is not None
        assert db is not None
        return dw, db

    return Built(
        ours, {"torch": lambda: by_torch(grad, x, w)},
        lambda: by_torch(grad.double(), x.double(), w.double()),
        x.nbytes + y.nbytes + grad.nbytes, 2 * 27 * 64 * n * at.side**2,
    )  # fmt: skip


def _conv(at: Where, n: int, layer: configs.Layer) -> Built:
    """A layer with its ReLU and pool."""
    x = at.map(n, layer.c_in, layer.h)
    w = at.normal(layer.c_out, layer.c_in, 3, 3, scale=(2 / (9 * layer.c_in)) ** 0.5)
    b, how = at.normal(layer.c_out), (layer.relu, layer.pool, False)
    ours, eager, triton = CudaBackend(), EagerBackend(), backends.get("triton")
    theirs: dict[str, Results] = {"torch": lambda: (eager.conv3x3(x, w, b, *how)[0],)}
    if triton.unavailable() is None:
        theirs["triton"] = _by_triton(lambda: (triton.conv3x3(x, w, b, *how)[0],))
    written = n * layer.h * layer.w * layer.c_out // (4 if layer.pool else 1)
    return Built(
        lambda: (ours.conv3x3(x, w, b, *how)[0],), theirs,
        lambda: (reference.conv3x3(x.double(), w.double(), b.double(), *how[:2]),),
        x.nbytes + w.nbytes + written * at.dtype.itemsize, n * layer.flop,
    )  # fmt: skip


def _by_triton(call: Results) -> Results:
    """With the tile that serves it, but of Triton's own: a table may have the kernel measured."""
    with tuned.asking() as noted:
        call()
    (query,) = noted
    chosen = tuned.choose(query)
    tile = tuned.rule(query) if chosen.form == "cuda" else chosen

    def forced() -> Sequence[Tensor]:
        with tiles.forced(tile):
            return call()

    return forced
