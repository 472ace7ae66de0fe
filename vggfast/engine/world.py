"""The processes of a run: one, or as many as torchrun has started, each with a share of a batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vggfast.errors import BackendError, InputError

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class OtherRankError(InputError):
    """Bad input that rank 0 tells the user of: the others end without a word."""


@dataclass(frozen=True)
class World:
    """This process among the ``size`` of its run.

    Small things go over gloo, whatever the device; gradients over NCCL between GPUs.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = None  # of gloo; None is the default group

    @property
    def first(self) -> bool:
        """Whether this is rank 0, the only one that writes and shows anything."""
        return self.rank == 0

    def place(self, device: torch.device) -> torch.device:
        """This process's device: of several processes each has the GPU of its local rank."""
        if self.size == 1 or device.type != "cuda":
            return device
        if str(device) != "cuda":
            raise InputError(
                f"device: got {device} for {self.size} processes, allowed are auto, cuda and cpu"
            )
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                f"nproc-per-node: got more processes than GPUs, allowed here are up to "
                f"{torch.cuda.device_count()}"
            )
        place = torch.device("cuda", self.local_rank)
        torch.cuda.set_device(place)
        return place

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The model whose backward pass averages gradients over the processes."""
        if self.size == 1:
            return model
        gpu = device.type == "cuda"
        return DistributedDataParallel(
            model,
            device_ids=[device] if gpu else None,
            process_group=dist.new_group(backend="nccl") if gpu else None,
            gradient_as_bucket_view=True,
        )

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes rank 0's buffers: batch normalisation's statistics are of a share."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0, group=self.group)

    def sum(self, values: Sequence[float]) -> list[float]:
        """The element-wise sums over all processes, in float64; the same on each."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.group)
        sums: list[float] = total.tolist()
        return sums

    def gather(self, value: Any) -> list[Any]:
        """What each process brought, by rank, on all of them."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that bad input ends on every process, wherever it was found."""
        error: InputError | BackendError | None = None
        try:
            yield
        except (InputError, BackendError) as found:
            error = found
        messages = self.gather(None if error is None else str(error))
        if not any(messages):
            return
        if not self.first:
            raise OtherRankError("rank 0 says why")
        if error is None:
            rank, message = next((r, m) for r, m in enumerate(messages) if m)
            error = InputError(f"rank {rank}: {message}")
        raise error


def no_sync(model: nn.Module, last: bool) -> AbstractContextManager[object]:
    """Within it gradients add up in this process alone, unless it is the ``last`` piece."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()


def launched_rank() -> int:
    """The rank that torchrun gave this process; 0 without torchrun."""
    return int(os.environ["RANK"]) if all(name in os.environ for name in _LAUNCHED) else 0


@contextmanager
def join() -> Iterator[World]:
    """Join the processes that torchrun has started, or that the caller has joined already."""
    if dist.is_available() and dist.is_initialized():
        yield _joined()
        return
    if not all(name in os.environ for name in _LAUNCHED) or os.environ["WORLD_SIZE"] == "1":
        yield World()
        return
    # Its functions have the default group as a default argument. Imported later, as torch does on
    # its own, they would keep that group for good: its threads would outlive
    # destroy_process_group and now and then abort the process while it ends.
    import_module("torch.distributed.nn")
    dist.init_process_group("gloo")
    yield _joined()
    # Not after an error: the others may wait for this process, and its end is what frees them.
    dist.destroy_process_group()


def _joined() -> World:
    gloo = dist.get_backend() == "gloo"
    return World(
        dist.get_rank(),
        dist.get_world_size(),
        int(os.environ.get("LOCAL_RANK", "0")),
        None if gloo else dist.new_group(backend="gloo"),
    )
