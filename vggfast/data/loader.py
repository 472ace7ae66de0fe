"""Batches in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vggfast.data.base import Key, RawBatch, Samples
from vggfast.errors import InputError


class Batches:
    """Batches (images (N, 3, H, W) float32, labels (N,) int64) of a part of a data set.

    With ``shuffle`` an epoch's order and augmentation follow from the seed and the epoch's number,
    so an epoch that is run again, in another process or with other workers, is the same.

    With ``world`` processes each gets a contiguous share of every batch: together they see in each
    step exactly the images that one process sees. Shares differ by at most one image; of the last,
    smaller batch a process may get none, and is given an empty batch, so all take as many steps.
    A mean over a share counts for ``len(labels) / step_images(step)`` of the mean over the batch;
    where gradients are averaged over processes (DDP), a share's mean loss is to be multiplied by
    ``world * len(labels) / step_images(step)`` before its backward pass.

    Args:
        samples: the part.
        batch: images of a step, over all processes together.
        shuffle: read in random order with augmentation's draws, or in order without.
        seed: of order and draws.
        workers: processes that read images, besides the caller's; they live as long as this does.
        pin_memory: hand images over in pinned memory, from where a GPU can copy by itself.
        rank, world: which of how many processes this is.
        device: where the batches are wanted. Images cross to it as bytes and become floats there.

    Attributes:
        images: how many images an epoch has, over all processes.
        waited: seconds for which the caller had to wait for batches, in this epoch so far.
        skipped: images left out or replaced in this epoch so far as they could not be read.
        bad: name and reason of each of those images, over all epochs.
    """

    def __init__(
        self,
        samples: Samples,
        batch: int,
        *,
        shuffle: bool,
        seed: int = 0,
        workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if batch < 1:
            raise InputError(f"batch: got {batch}, allowed are whole numbers from 1 up")
        if not 0 <= rank < world:
            raise InputError(f"rank: got {rank} of world {world}, allowed is 0 <= rank < world")
        self._samples, self._device = samples, torch.device(device)
        self._steps = _Steps(len(samples), batch, shuffle, seed, rank, world)
        # DataLoader reads batches through __getitems__, which its type does not know.
        self._loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", _Reader(samples)),
            batch_sampler=self._steps,
            collate_fn=_as_it_is,
            num_workers=workers,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_outlive_sigterm,
            generator=torch.Generator(),  # keeps the loader's hands off the global one
        )
        self.images = len(samples)
        self.waited, self.skipped = 0.0, 0
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        """The number of batches of an epoch; the last may be smaller."""
        return self._steps.count

    def step_images(self, step: int) -> int:
        """How many images step ``step`` (from 0) has, over all processes."""
        return len(self._steps.span(step))

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number``, without reading the first ``start`` of them.

        Raises:
            InputError: a sample cannot be read.
        """
        self.waited = 0.0
        begun = time.perf_counter()
        for raw in self.raw(number, start):
            x = self._samples.finish(raw, self._device)
            y = raw.labels.to(self._device, non_blocking=True)
            self.waited += time.perf_counter() - begun
            yield x, y
            begun = time.perf_counter()

    def raw(self, number: int = 0, start: int = 0) -> Iterator[RawBatch]:
        """What :meth:`epoch` gives, as the workers hand it over."""
        self._steps.epoch, self._steps.start = number, start
        self.skipped = 0
        for raw in self._loader:
            if isinstance(raw, InputError):
                raise raw
            self.skipped += raw.skipped
            self.bad.update(raw.bad)
            yield raw


class _Steps(Sampler[list[Key]]):
    """The keys of each step that are this process's."""

    def __init__(
        self, length: int, batch: int, shuffle: bool, seed: int, rank: int, world: int
    ) -> None:
        self.length, self.batch, self.shuffle, self.seed = length, batch, shuffle, seed
        self.rank, self.world = rank, world
        self.count = -(-length // batch)
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return self.count

    def span(self, step: int) -> range:
        """The places in the epoch's order that step ``step`` takes, over all processes."""
        return range(step * self.batch, min((step + 1) * self.batch, self.length))

    def __iter__(self) -> Iterator[list[Key]]:
        order, draws = self._order()
        for step in range(self.start, self.count):
            span = self.span(step)
            low, high = (
                span.start + r * len(span) // self.world for r in (self.rank, self.rank + 1)
            )
            yield list(zip(order[low:high].tolist(), draws[low:high].tolist(), strict=True))

    def _order(self) -> tuple[Tensor, Tensor]:
        """Indices and draws in the epoch's order, over all processes."""
        if not self.shuffle:
            return torch.arange(self.length), torch.zeros(self.length, dtype=torch.int64)
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        return order, torch.randint(2**62, (self.length,), generator=generator)


class _Reader:
    """What runs in the workers: a failure is handed over as a value, without a traceback."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitems__(self, keys: Sequence[Key]) -> RawBatch | InputError:
        try:
            return self._samples.read(keys)
        except InputError as error:
            return error


def _outlive_sigterm(worker: int) -> None:
    """Slurm sends SIGTERM to all processes of a job; the one that reads decides when to end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
