"""``conv3x3_chain``: a run of convolutions, each with its ReLU and perhaps a 2x2 max-pool.

Forward it is ``conv3x3`` layer by layer. Backward it is one node of the graph, so that a backend
that fuses chains can make dz of each layer in the epilogue of the dgrad above it: two GEMMs a
layer and no pass over a map between them. Kept are x, each layer's output (mask below, input
above) and the 2-bit argmaxes, as for layers apart, and each is let go of once its layers are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vggfast.backends import Call, Serving
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.errors import InputError
from vggfast.ops import _check
from vggfast.ops._chain_backward import Size, Walk
from vggfast.ops._chain_steps import fuses
from vggfast.ops._library import absent, ambient_dtype, define


def conv3x3_chain(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    pools: Sequence[bool],
    *,
    recompute_first: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Return y_L of y_0 = x, y_i = pool2x2?(relu(conv(y_(i-1), w_i) + b_i)); differentiable once.

    The result and every gradient are those of ``conv3x3(..., relu=True)`` layer by layer (a bias
    gradient's sum may run in another order where the backend fuses).

    Args:
        x: input (N, C_0, H, W), as for :func:`~vggfast.ops.conv3x3`; H, W large enough for the
            pools: at least 2 where one comes.
        weights: of each layer (C_i, C_(i-1), 3, 3), dtype and device of x.
        biases: of each layer (C_i,) or None.
        pools: whether each layer ends with a 2x2 max-pool of stride 2.
        recompute_first: do not keep the first layer's output (the largest map of a VGG) but compute
            it again in backward, where another layer follows.
        backend: name of the backend to force, or None for the automatic choice.

    Returns:
        y (N, C_L, H', W'), channels_last.

    Raises:
        InputError: no layer, lists of different lengths, a wrong rank, shape, dtype or device.
        BackendError: a forced backend cannot serve the call.
    """
    weights, biases, pools = list(weights), list(biases), list(pools)
    if not weights:
        raise InputError("weights: got none, allowed is one for each layer, at least one layer")
    for name, given in (("biases", biases), ("pools", pools)):
        if len(given) != len(weights):
            raise InputError(
                f"{name}: got {len(given)}, allowed is one for each of the {len(weights)} weights"
            )
    _check.tensor("x", x)
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        _check.tensor(f"weights[{i}]", w)
        if b is not None:
            _check.tensor(f"biases[{i}]", b)
            if b.numel() == 0:  # an op's list of tensors has no None: an empty one stands for it
                raise InputError(f"biases[{i}]: got shape {tuple(b.shape)}, allowed is (C_out,)")
    y: Tensor = _OP(
        x,
        weights,
        [absent(x) if b is None else b for b in biases],
        [bool(p) for p in pools],
        _first_trained(x, weights, biases),
        recompute_first,
        backend,
    )[0]
    return y


def fuses_chains(x: Tensor, backend: str | None = None) -> bool:
    """Whether the backend that serves convolutions of ``x`` now has fused kernels for chains.

    Raises:
        BackendError: a forced backend cannot serve them.
    """
    kind, dtype = x.device.type, x.dtype
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    if autocast and dtype is not torch.float64:
        dtype = ambient_dtype(kind)
    return fuses(kind, dtype, backend)


def _first_trained(x: Tensor, weights: list[Tensor], biases: list[Tensor | None]) -> int:
    """The lowest layer that wants a gradient, 0 if x does; the number of layers if none."""
    if torch.is_grad_enabled():
        if x.requires_grad:
            return 0
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            if w.requires_grad or (b is not None and b.requires_grad):
                return i
    return len(weights)


def _layers(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], pools: list[bool]
) -> tuple[list[Size], list[tuple[int, int, int, int]]]:
    """Check the arguments: the map (H, W) of each layer before its pool, and its output's size."""
    _check.tensor("x", x)
    _check.rank("x", x, "(N, C, H, W)")
    _check.map_size("x", x, 1)
    (n, c, h, width), maps, outputs = x.shape, [], []
    for i, (w, b, pool) in enumerate(zip(weights, biases, pools, strict=True)):
        name, bias = f"weights[{i}]", None if b.numel() == 0 else b
        _check.rank(name, w, "(C_out, C_in, 3, 3)")
        c_out = w.shape[0]
        below = "x" if i == 0 else f"layer {i - 1}"
        meaning = f"(C_out >= 1, C_in = {c} of {below}, 3, 3)"
        _check.shape(name, w, (max(c_out, 1), c, 3, 3), meaning)
        _check.shape(f"biases[{i}]", bias, (c_out,), f"(C_out of weights[{i}],)")
        _check.alike(x, **{name: w, f"biases[{i}]": bias})
        maps.append((h, width))
        if pool:
            if min(h, width) < 2:
                raise InputError(
                    f"x: got shape {tuple(x.shape)}, which leaves a map of {h} x {width} at the "
                    f"pool of layer {i}, allowed are H, W >= 2 there"
                )
            h, width = h // 2, width // 2
        c = c_out
        outputs.append((n, c, h, width))
    return maps, outputs


def _kept(i: int, layers: int, first: int, recompute_first: bool) -> bool:
    """Whether backward may want the output of layer i: as a mask, or for the dw of the next."""
    return i >= first - 1 and first < layers and not (recompute_first and i == 0 and layers > 1)


def _kernel(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    pools: list[bool],
    first: int,
    recompute_first: bool,
    backend: str | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    _, outputs = _layers(x, weights, biases, pools)
    if x.shape[0] == 0:
        return _fake(x, weights, biases, pools, first, recompute_first, backend)
    layers, y, inner, codes = len(weights), to_channels_last(x), [], []
    for i, (w, b, pool, size) in enumerate(zip(weights, biases, pools, outputs, strict=True)):
        chosen = Serving(Call("conv3x3", x.device.type, x.dtype, w.shape[1], w.shape[0]), backend)
        kept = _kept(i, layers, first, recompute_first)
        bias = None if b.numel() == 0 else b.contiguous()
        y, code = chosen.conv3x3(y, w, bias, True, pool, pool and kept and i >= first)
        assert tuple(y.shape) == size, f"{chosen.name} returned {tuple(y.shape)}, not {size}"
        codes.append(absent(x, torch.uint8) if code is None else code)
        if i < layers - 1:
            inner.append(y if kept else absent(x))
    return y, inner, codes


def _fake(
    x: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    pools: list[bool],
    first: int,
    recompute_first: bool,
    backend: str | None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    _, outputs = _layers(x, weights, biases, pools)
    layers, inner, codes = len(weights), [], []
    for i, ((n, c, h, width), pool) in enumerate(zip(outputs, pools, strict=True)):
        kept = _kept(i, layers, first, recompute_first)
        code = (n, h, width, (c + 3) // 4) if pool and kept and i >= first else (0,)
        codes.append(torch.empty(code, dtype=torch.uint8, device=x.device))
        if i < layers - 1:
            inner.append(channels_last_empty(n, c, h, width, x) if kept else absent(x))
    return channels_last_empty(*outputs[-1], x), inner, codes


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, weights, biases, pools, first, recompute_first, backend = inputs
    y, inner, codes = output
    # Else a zero map would be made for each inner output, which nobody differentiates.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*inner, *codes)
    layers = len(weights)
    ctx.pools, ctx.first, ctx.backend = pools, first, backend
    ctx.x_size, ctx.maps = tuple(x.shape), _layers(x, weights, biases, pools)[0]
    ctx.x_needs = x.requires_grad
    ctx.w_needs, ctx.b_needs = ([t.requires_grad for t in ts] for ts in (weights, biases))
    # The input of the lowest trained layer is kept for its dw alone.
    lowest_dw = first < layers and ctx.w_needs[first]
    ctx.recompute = recompute_first and layers > 1 and (first == 0 or (first == 1 and lowest_dw))
    keeps_x = (first == 0 and lowest_dw) or ctx.recompute
    ys = [
        t if _kept(i, layers, first, recompute_first) and (i >= first or lowest_dw) else None
        for i, t in enumerate((*inner, y))
    ]
    ctx.save_for_backward(
        x if keeps_x else None,
        biases[0] if ctx.recompute and biases[0].numel() else None,
        *weights,
        *ys,
        *(c if c.dim() == 4 else None for c in codes),
    )


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    layers = len(ctx.pools)
    if grad is None:
        return None, [None] * layers, [None] * layers, None, None, None, None
    x, first_bias, *saved = ctx.saved_tensors
    # From here on only the lists hold the maps, so each goes when its layers are done.
    if hasattr(ctx, "maybe_clear_saved_tensors"):
        ctx.maybe_clear_saved_tensors()
    walk = Walk(
        grad, x, list(ctx.x_size), saved[:layers], first_bias, saved[layers : 2 * layers],
        saved[2 * layers :], ctx.pools, ctx.maps, ctx.first, ctx.recompute, ctx.x_needs,
        ctx.w_needs, ctx.b_needs, ctx.backend,
    )  # fmt: skip
    del saved
    dx, dws, dbs = walk.run()
    return dx, dws, dbs, None, None, None, None


_OP = define(
    "conv3x3_chain",
    "(Tensor x, Tensor[] weights, Tensor[] biases, bool[] pools, int first, bool recompute_first, "
    "str? backend) -> (Tensor, Tensor[], Tensor[])",
    _kernel,
    _fake,
    setup_context=_setup_context,
    backward=_backward,
    autocast=ambient_dtype,
)
