"""The numerics policy of docs/numerics.md as an assertion."""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.reference import errors


def assert_close(
    name: str,
    y: Tensor,
    exact: Tensor,
    baseline: Tensor,
    cancelled: Tensor | None = None,
    algorithm: float = 0.0,
) -> None:
    """``y`` is as near to the float64 result ``exact`` as torch's kernel of the same dtype, twice.

    ||y - exact|| / ||exact|| <= 2 * (baseline's) + 2 eps: the second term is the rounding of the
    result itself, which a baseline may escape by luck on small tensors. A sum whose terms cancel
    rounds by the size of its terms: ``cancelled`` is the sum of their absolute values.
    ``algorithm`` is the relative error that the backend states for its algorithm.
    """
    ours, theirs = errors(y, exact), errors(baseline, exact)
    bound = 2 * theirs.rel + 2 * torch.finfo(y.dtype).eps + algorithm
    if cancelled is not None and exact.norm() > 0:
        bound *= max(1.0, (cancelled.double().norm() / exact.norm()).item())
    assert ours.rel <= bound, f"{name}: error {ours.rel:.2e}, allowed is {bound:.2e} ({ours})"
