"""Several processes, started by torchrun, share the images of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vggfast.engine.world import World

T = TypeVar("T")


def decide(world: World, question: Callable[[], T]) -> T:
    """What the first process answers, on all of them; an InputError of its is one of all."""
    with world.together():
        answer = question() if world.first else None
    found: T = world.gather(answer)[0]
    return found


def gather_rows(world: World, tensors: Sequence[Tensor]) -> list[Tensor] | None:
    """Each tensor (n, ...) of all processes, joined along n: on the first, None on the others.

    All are on the CPU. n may differ from process to process, dtype and the other sizes may not.
    """
    if world.size == 1:
        return list(tensors)
    counts = world.gather(len(tensors[0]))
    joined: list[Tensor] = []
    for tensor in tensors:
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in counts] if world.first else None
        dist.gather(padded, parts, dst=0, group=world.group)
        if parts is not None:
            joined.append(torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)]))
    return joined if world.first else None
