"""Several processes, started by torchrun, share the images of an evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from vggfast.errors import InputError

T = TypeVar("T")


class ShardError(RuntimeError):
    """Another process of this evaluation failed."""


@dataclass(frozen=True)
class Shards:
    """This process is number ``rank`` of ``world``; one process alone is 0 of 1.

    Results travel as CPU tensors, so the group is gloo's, with GPUs too: nothing but a few bytes
    an image is sent, and two processes may share a GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    group: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def mine(self, indices: Sequence[int]) -> list[int]:
        """Every ``world``-th of the indices."""
        return list(indices[self.rank :: self.world])

    def decide(self, question: Callable[[], T]) -> T:
        """What the first process answers, in all of them, also if the answer is an InputError."""
        if self.world == 1:
            return question()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = question()
            except InputError as error:
                box[1] = str(error)
        dist.broadcast_object_list(box, src=0, group=self.group)
        if box[1] is not None:
            raise InputError(box[1])
        answer: T = box[0]
        return answer

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait for all at the end; if one fails within, all do, and none waits for it forever.

        Raises:
            InputError: another process raised one.
            ShardError: another process raised something else.
        """
        try:
            yield
        except Exception as error:
            self._all((isinstance(error, InputError), f"{error}"))
            raise
        for failed in self._all(None):
            if failed is not None:
                bad_input, text = failed
                raise InputError(text) if bad_input else ShardError(f"another process: {text}")

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor] | None:
        """Each tensor (n, ...) of all processes joined along n, in the first; None in the others.

        n may differ from process to process; dtype and the other sizes may not.
        """
        if self.world == 1:
            return list(tensors)
        counts = self._all(len(tensors[0]))
        joined: list[Tensor] = []
        for tensor in tensors:
            padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
            padded[: len(tensor)] = tensor
            parts = [torch.empty_like(padded) for _ in counts] if self.first else None
            dist.gather(padded, parts, dst=0, group=self.group)
            if parts is not None:
                joined.append(torch.cat([p[:n] for p, n in zip(parts, counts, strict=True)]))
        return joined if self.first else None

    def _all(self, value: Any) -> list[Any]:
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value, group=self.group)
        return box


@contextmanager
def shards() -> Iterator[Shards]:
    """The processes that torchrun started, or this one alone; the group is left at the end.

    A process group that exists already is used, and stays.
    """
    if dist.is_available() and dist.is_initialized():
        group = dist.new_group(backend="gloo")
        yield Shards(dist.get_rank(), dist.get_world_size(), _number("LOCAL_RANK", 0), group)
        return
    started = dist.is_available() and dist.is_torchelastic_launched()
    if not started or _number("WORLD_SIZE", 1) < 2:
        yield Shards()
        return
    dist.init_process_group("gloo")
    try:
        yield Shards(dist.get_rank(), dist.get_world_size(), _number("LOCAL_RANK", 0))
    finally:
        dist.destroy_process_group()


def _number(variable: str, default: int) -> int:
    return int(os.environ.get(variable, default))
