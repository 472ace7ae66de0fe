"""Batches: shares of several processes, resumption, waiting, and failures that cross processes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vggfast.data import Batches, RawBatch
from vggfast.data.base import Key
from vggfast.errors import InputError


class Numbers:
    """Sample i is the number i, with its draw as the label."""

    def __init__(self, length: int, slow: float = 0.0, broken: int = -1) -> None:
        self.length, self.slow, self.broken = length, slow, broken

    def __len__(self) -> int:
        return self.length

    def read(self, keys: Sequence[Key]) -> RawBatch:
        time.sleep(self.slow)
        if self.broken in [i for i, _ in keys]:
            raise InputError(f"data: cannot read InputError: {self.broken}")
        both = torch.tensor(keys, dtype=torch.int64).view(-1, 2)
        return RawBatch(both[:, 0].float(), both[:, 1], bad=[("a", "why")], skipped=1)

    def finish(self, raw: RawBatch, device: torch.device) -> Tensor:
        return raw.images.to(device)


def steps(batches: Batches, epoch: int = 1, start: int = 0) -> list[list[tuple[float, int]]]:
    return [list(zip(x.tolist(), y.tolist(), strict=True)) for x, y in batches.epoch(epoch, start)]


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.integers(0, 3))
def test_processes_together_see_what_one_sees(length, batch, world, shuffle, start):
    def of(rank: int, world: int) -> Batches:
        return Batches(Numbers(length), batch, shuffle=shuffle, seed=5, rank=rank, world=world)

    alone = steps(of(0, 1), 3)
    shares = [steps(of(rank, world), 3, start) for rank in range(world)]
    assert len(alone) == len(of(0, world)) == -(-length // batch)
    assert {len(share) for share in shares} == {max(len(alone) - start, 0)}
    for step, together in enumerate(zip(*shares, strict=True), start):
        assert [key for share in together for key in share] == alone[step]
        sizes = [len(share) for share in together]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == of(0, world).step_images(step)
    seen = sorted(i for step in alone for i, _ in step)
    assert seen == list(range(length))


def test_the_weights_in_the_docstring_give_the_mean_of_the_batch():
    """Of a loss with gradients averaged over processes, as DDP does."""
    values = torch.randn(7, dtype=torch.float64)
    world = 3
    averaged = [0.0, 0.0]
    for rank in range(world):
        batches = Batches(Numbers(7), 5, shuffle=True, rank=rank, world=world)
        for step, (x, y) in enumerate(batches.epoch()):
            mean = values[x.long()].mean() if len(y) else 0.0
            weight = world * len(y) / batches.step_images(step)
            averaged[step] += float(mean * weight) / world
    whole = [
        values[x.long()].mean().item() for x, _ in Batches(Numbers(7), 5, shuffle=True).epoch()
    ]
    assert averaged == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("workers", [0, 2])
def test_order_does_not_depend_on_workers_or_earlier_epochs(workers):
    fresh = Batches(Numbers(20), 6, shuffle=True, seed=2)
    batches = Batches(Numbers(20), 6, shuffle=True, seed=2, workers=workers)
    for epoch, start in ((1, 0), (4, 2), (1, 0)):
        assert steps(batches, epoch, start) == steps(fresh, epoch)[start:]
    abandoned = batches.epoch(7)
    next(abandoned)
    assert steps(batches, 2) == steps(fresh, 2)


def test_another_rank_reads_only_its_share():
    class Counted(Numbers):
        seen = 0

        def read(self, keys: Sequence[Key]) -> RawBatch:
            self.seen += len(keys)
            return super().read(keys)

    samples = Counted(20)
    list(Batches(samples, 8, shuffle=True, rank=1, world=4).epoch(0, start=1))
    assert samples.seen == 2 + 1  # of 8, and of the last 4


@pytest.mark.parametrize("workers", [0, 1])
def test_a_failure_is_one_line_from_a_worker_too(workers):
    batches = Batches(Numbers(9, broken=7), 3, shuffle=False, workers=workers)
    epoch = batches.epoch()
    assert [x.tolist() for x, _ in itertools.islice(epoch, 2)] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError) as raised:
        next(epoch)
    assert str(raised.value) == "data: cannot read InputError: 7"


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_counted_across_processes(workers):
    batches = Batches(Numbers(9), 3, shuffle=False, workers=workers)
    for _ in range(2):
        steps(batches)
        assert batches.skipped == 3  # of this epoch
    assert batches.bad == {"a": "why"}


def test_waiting_is_what_the_caller_waits_and_nothing_else(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("vggfast.data.loader.time.perf_counter", lambda: now[0])

    class Slow(Numbers):
        def read(self, keys: Sequence[Key]) -> RawBatch:
            now[0] += 3
            return super().read(keys)

        def finish(self, raw: RawBatch, device: torch.device) -> Tensor:
            now[0] += 0.25
            return super().finish(raw, device)

    batches = Batches(Slow(4), 1, shuffle=False)
    waited = []
    for _ in range(2):
        for _ in batches.epoch():
            waited.append(batches.waited)
            now[0] += 100  # the caller's own work
    assert waited == [3.25, 6.5, 9.75, 13.0] * 2  # anew in each epoch


def test_a_worker_reads_while_the_caller_works():
    batches = Batches(Numbers(8, slow=0.04), 1, shuffle=False, workers=1)
    waited = []
    for _ in batches.epoch():
        waited.append(batches.waited)
        time.sleep(0.1)
    assert waited[-1] - waited[0] < 0.14  # one after the other it would be 7 x 0.04


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch": 0}, "batch: got 0"), ({"rank": 2, "world": 2}, "rank: got 2 of world 2"),
     ({"rank": -1}, "rank: got -1")],
)  # fmt: skip
def test_bad_arguments(change, message):
    with pytest.raises(InputError, match=message):
        Batches(Numbers(4), **{"batch": 1, "shuffle": False, **change})
