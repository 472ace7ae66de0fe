"""Launch of the Gluon convolution on tiles of form "gluon"; fprop.py hands them over."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import triton
from torch import Tensor

from .. import gluon_plan, tiles
from .gpu import cores


def unavailable(device: torch.device) -> str | None:
    """Why tiles of form "gluon" cannot run on ``device``, or None: they can."""
    if device.type != "cuda":
        return "Triton's interpreter does not run Gluon kernels"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0):
        return f"Gluon tiles use wgmma, which only compute capability 9.0 has, not {major}.{minor}"
    return gluon_plan.absent()


def launch(
    x: Tensor,
    rows: Tensor,
    b: Tensor | None,
    y: Tensor,
    argmax: Tensor | None,
    c_out: int,
    pixels: tuple[int, int, int],
    tile: tiles.Tile,
    relu: bool,
    pool: bool,
    mirror: bool,
) -> None:
    """Fill y (N, HO, WO, padded C_out) and argmax, from x (N, H, W, padded C_in).

    rows (9 * c_out, padded C_in); ``pixels``: the (N, H, W) that tiles have to cover.

    Raises:
        RuntimeError: the tile cannot run here; the message says why.
    """
    reason = unavailable(x.device)
    if reason is not None:
        raise RuntimeError(f"tile {tile.name}: {reason}")
    from ..gluon3x3 import conv3x3_gluon_kernel  # only where the installed Triton has Gluon

    plan = gluon_plan.plan(tile, pool)
    counts = tile.counts(pixels)
    count = prod(counts) * triton.cdiv(c_out, tile.bc)
    groups = plan.groups_per_block * triton.cdiv(x.shape[3], tile.bk)
    conv3x3_gluon_kernel[(min(count, cores(x.device)),)](
        _operand(x, plan.x_box), _operand(rows, plan.w_box), b, _operand(y, plan.y_box), argmax,
        y.shape[0], y.shape[1], y.shape[2], c_out, groups, counts[1], counts[2], count,
        **plan.constants, RELU=relu, POOL=pool, MIRROR=mirror,
        num_warps=gluon_plan.WARPS, maxnreg=gluon_plan.REGISTERS,
    )  # fmt: skip


def _operand(t: Tensor, box: tuple[int, ...]) -> Any:
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    layout = gluon_plan.layout(box)
    return TensorDescriptor(t, list(t.shape), list(t.stride()), list(box), layout)
