"""The packed 2-bit argmax of a 2x2 pool in plain torch (layout: base.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast.backends.base import channels_last_empty

_SHIFTS = (0, 2, 4, 6)  # four channels a byte


def pack(indices: Tensor, width: int) -> Tensor:
    """Pack torch's ``max_pool2d`` indices (N, C, Ho, Wo), flat in an H x ``width`` map.

    Returns uint8 (N, Ho, Wo, ceil(C/4)), contiguous.
    """
    code = 2 * ((indices // width) % 2) + (indices % width) % 2
    code = F.pad(code.permute(0, 2, 3, 1), (0, -indices.shape[1] % 4)).to(torch.uint8)
    quads = code.unflatten(-1, (-1, 4))
    packed = quads[..., 0].clone()
    for i in range(1, 4):
        packed |= quads[..., i] << _SHIFTS[i]
    return packed.contiguous()


def unpack(argmax: Tensor, channels: int) -> Tensor:
    """The 2-bit codes (N, C, Ho, Wo) as uint8: :func:`pack` undone, up to the map's width."""
    shifts = torch.tensor(_SHIFTS, dtype=torch.uint8, device=argmax.device)
    codes = (argmax.unsqueeze(-1) >> shifts) & 3
    return codes.flatten(-2)[..., :channels].permute(0, 3, 1, 2)


def scatter(grad: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """Spread ``grad`` (N, C, Ho, Wo) to each window's winner in a map (N, C, height, width)."""
    n, c, ho, wo = grad.shape
    codes = unpack(argmax, c)
    out = channels_last_empty(n, c, height, width, grad).zero_()
    for k in range(4):
        window = out[:, :, k // 2 : 2 * ho : 2, k % 2 : 2 * wo : 2]
        window.copy_(torch.where(codes == k, grad, 0))
    return out
