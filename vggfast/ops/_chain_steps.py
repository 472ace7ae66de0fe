"""The steps of a chain's backward pass as ops, so that tracers see them and memory goes as it can.

Neither can be differentiated again: they are parts of :mod:`vggfast.ops.chain`'s gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.backends import Call, Serving, forced_name, get, select
from vggfast.backends.base import channels_last_empty, to_channels_last
from vggfast.ops._library import absent, define


def fuses(kind: str, dtype: torch.dtype, backend: str | None) -> bool:
    """Whether the backend that serves 3x3 convolutions on a device of this kind fuses chains.

    Asked for a usual layer: a backend that serves one of other channels gives the same by default.
    """
    name = forced_name(backend)
    if name is not None:  # if it cannot serve a layer, that layer's call says so
        return get(name).fuses_chains
    return select(Call("conv3x3", kind, dtype, 64, 64)).fuses_chains


# What torch.compiler.assume_constant_result does, without its import of torch._dynamo: a compiler
# takes the answer and does not trace how a backend is found.
fuses._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _argmax(argmax: Tensor | None) -> Tensor | None:
    return None if argmax is None else argmax.contiguous()


def _dz_kernel(
    grad: Tensor,
    y: Tensor,
    argmax: Tensor | None,
    height: int,
    width: int,
    need_db: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    if grad.shape[0] == 0:
        dz, db = _dz_fake(grad, y, argmax, height, width, need_db, backend)
        return dz, db.zero_()
    c = grad.shape[1]
    chosen = Serving(Call("conv3x3", grad.device.type, grad.dtype, c, c), backend)
    # What was kept may come back with other strides: saved-tensor hooks store it as they like.
    dz, found = chosen.conv3x3_dz(
        to_channels_last(grad), to_channels_last(y), _argmax(argmax), (height, width), need_db
    )
    return dz, absent(grad) if found is None else found


def _dz_fake(
    grad: Tensor,
    y: Tensor,
    argmax: Tensor | None,
    height: int,
    width: int,
    need_db: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    n, c = grad.shape[:2]
    dz = channels_last_empty(n, c, height, width, grad)
    return dz, grad.new_empty(c) if need_db else absent(grad)


def _step_kernel(
    dz: Tensor,
    x: Tensor,
    w: Tensor,
    argmax: Tensor | None,
    height: int,
    width: int,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if dz.shape[0] == 0:
        below, dw, db = _step_fake(dz, x, w, argmax, height, width, needs, backend)
        return below, dw.zero_(), db.zero_()
    chosen = Serving(Call("conv3x3", dz.device.type, dz.dtype, w.shape[1], w.shape[0]), backend)
    below, *found = chosen.conv3x3_chain_step(
        to_channels_last(dz),
        to_channels_last(x),
        w,
        _argmax(argmax),
        (height, width),
        (needs[0], needs[1]),
    )
    dw, db = (absent(dz) if g is None else g for g in found)
    return below, dw, db


def _step_fake(
    dz: Tensor,
    x: Tensor,
    w: Tensor,
    argmax: Tensor | None,
    height: int,
    width: int,
    needs: list[bool],
    backend: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    n, c = x.shape[:2]
    return (
        channels_last_empty(n, c, height, width, dz),
        dz.new_empty(w.shape) if needs[0] else absent(dz),
        dz.new_empty(c) if needs[1] else absent(dz),
    )


DZ = define(
    "conv3x3_dz",
    "(Tensor grad, Tensor y, Tensor? argmax, SymInt height, SymInt width, bool need_db, "
    "str? backend) -> (Tensor, Tensor)",
    _dz_kernel,
    _dz_fake,
)
STEP = define(
    "conv3x3_chain_step",
    "(Tensor dz, Tensor x, Tensor w, Tensor? argmax, SymInt height, SymInt width, bool[] needs, "
    "str? backend) -> (Tensor, Tensor, Tensor)",
    _step_kernel,
    _step_fake,
)
