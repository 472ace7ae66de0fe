"""Batches in an order that depends on (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vggfast.data.base import Key, Samples
from vggfast.errors import InputError


class Batches:
    """Batches (images (N, 3, H, W) float32, labels (N,) int64) of a part of a data set.

    With ``shuffle`` an epoch's order and augmentation follow from the seed and the epoch's number,
    so an epoch that is run again, in another process or with other workers, is the same.
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
    ) -> None:
        self._keys, self._batch = _Keys(len(samples), shuffle, seed), batch
        # DataLoader reads batches through __getitems__, which its type does not know.
        self._loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", samples),
            batch_size=batch,
            sampler=self._keys,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # keeps the loader's hands off the global one
        )
        self.images = len(samples)

    def __len__(self) -> int:
        """The number of batches of an epoch; the last may be smaller."""
        return len(self._loader)

    def epoch(self, number: int = 0, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch ``number`` but the first ``skip``, which are not read.

        Raises InputError if a sample cannot be read.
        """
        self._keys.epoch, self._keys.skip = number, skip * self._batch
        try:
            yield from self._loader
        except InputError as error:
            # From a worker process it arrives with the worker's traceback; the last line is ours.
            line = str(error).strip().splitlines()[-1]
            raise InputError(line.rpartition("InputError: ")[2]) from None


class _Keys(Sampler[Key]):
    def __init__(self, length: int, shuffle: bool, seed: int) -> None:
        self.length, self.shuffle, self.seed, self.epoch = length, shuffle, seed, 0
        self.skip = 0  # the first samples that are left out

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Key]:
        if not self.shuffle:
            return iter([(i, 0) for i in range(self.skip, self.length)])
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        order = torch.randperm(self.length, generator=generator).tolist()
        draws = torch.randint(2**62, (self.length,), generator=generator).tolist()
        return iter(list(zip(order, draws, strict=True))[self.skip :])
