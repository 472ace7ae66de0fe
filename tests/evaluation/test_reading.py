"""Images at a test scale, and batches of one size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggfast.data.images import open_images
from vggfast.evaluation.reading import Sample, by_size, stream, to_input

from .helpers import CLASSES, MEAN, STD

SIZES = ((4, 6), (6, 4), (4, 4))


def samples(sizes: list[int]) -> list[Sample]:
    return [Sample(i, np.zeros((*SIZES[s], 3), np.uint8), 0) for i, s in enumerate(sizes)]


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(1, 5), st.integers(0, 500))
def test_batches_hold_one_size_and_lose_nothing(sizes: list[int], most: int, pending: int) -> None:
    batches = list(by_size(samples(sizes), lambda h, w: most, pending))
    assert all(1 <= len(batch) <= most for batch in batches)
    assert all(len({s.pixels.shape for s in batch}) == 1 for batch in batches)
    assert sorted(s.number for batch in batches for s in batch) == list(range(len(sizes)))
    for size in SIZES:  # in order within a size
        numbers = [s.number for b in batches for s in b if s.pixels.shape[:2] == size]
        assert numbers == sorted(numbers)
    if pending == 500:
        full = sum(sizes.count(s) // most for s in range(3))
        assert sum(len(batch) == most for batch in batches) >= full


def test_little_waits() -> None:
    """Ten images of each size in turn, batches of ten: whole ones, if they may wait."""
    sizes = [0, 1, 2] * 10
    assert [len(b) for b in by_size(samples(sizes), lambda h, w: 10)] == [10, 10, 10]
    waiting = most_waiting = 0
    pending = 200  # bytes; an image has 72 or 48
    source = samples(sizes)

    def counted() -> object:
        nonlocal waiting, most_waiting
        for sample in source:
            waiting += sample.pixels.nbytes
            most_waiting = max(most_waiting, waiting)
            yield sample

    lengths = []
    for batch in by_size(counted(), lambda h, w: 10, pending):  # type: ignore[arg-type]
        waiting -= sum(s.pixels.nbytes for s in batch)
        lengths.append(len(batch))
    assert most_waiting <= pending + 72
    assert sum(lengths) == 30


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_in_order(photos: Path, workers: int) -> None:
    images = open_images(str(photos))
    chosen = [5, 0, 3]
    found = list(stream(images, chosen, 40, workers=workers))
    assert [s.number for s in found if isinstance(s, Sample)] == chosen
    for sample in found:
        assert isinstance(sample, Sample)
        assert sample.pixels.dtype == np.uint8
        assert min(sample.pixels.shape[:2]) == 40
        assert CLASSES[sample.label] in images.name(sample.number)
    original = images[0][0]
    same = next(iter(stream(images, [0], min(original.size))))
    assert isinstance(same, Sample)
    assert np.array_equal(same.pixels, np.asarray(original))


def test_the_networks_input() -> None:
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for _ in range(2)]
    x = to_input(
        [Sample(i, p, 0) for i, p in enumerate(pixels)], MEAN, STD,
        torch.device("cpu"), torch.float32,
    )  # fmt: skip
    wanted = (np.stack(pixels).astype(np.float64) - MEAN) / STD
    assert x.shape == (2, 3, 5, 7)
    torch.testing.assert_close(
        x, torch.from_numpy(wanted).permute(0, 3, 1, 2).float(), rtol=1e-5, atol=1e-6
    )
