"""Boxes: IoU against counting pixels, the network's numbers against hand-made cases."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggfast.localization.boxes import area, clip, decode, encode, iou, mirror, rescale

SIDE = 12

ends = st.lists(st.integers(0, SIDE), min_size=4, max_size=4)
real = st.floats(-200, 200, width=32)


def box(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pixels(values: list[int]) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = values
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


@pytest.mark.parametrize(
    ("a", "b", "known"),
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 4, 4), (1, 1, 3, 3), 1 / 4),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0),  # they touch
        ((0, 0, 2, 2), (5, 5, 6, 6), 0),
        ((1, 1, 1, 3), (1, 1, 1, 3), 0),  # no area
        ((3, 3, 1, 1), (0, 0, 4, 4), 0),  # ends in the wrong order
    ],
)
def test_known_overlaps(a: tuple[float, ...], b: tuple[float, ...], known: float) -> None:
    assert float(iou(box(*a), box(*b))) == pytest.approx(known, abs=1e-15)
    assert float(iou(box(*b), box(*a))) == pytest.approx(known, abs=1e-15)


@given(ends, ends)
def test_iou_is_the_share_of_pixels(a: list[int], b: list[int]) -> None:
    mine, other = pixels(a), pixels(b)
    expected = len(mine & other) / len(mine | other) if mine & other else 0
    assert float(iou(box(*a), box(*b))) == pytest.approx(expected, abs=1e-15)
    assert float(area(box(*a))) == len(mine)


def test_iou_of_all_pairs() -> None:
    a = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 4], [0, 0, 1, 1]])
    table = iou(a[:, None], a)
    assert table.shape == (3, 3)
    assert torch.equal(table, table.T)
    assert float(table[0, 2]) == 0.25


def test_numbers_of_known_boxes() -> None:
    """In half sides from the crop's centre, as docs/localization.md has it."""
    corner = box(10, 20)
    for corners, numbers in (
        ((10, 20, 74, 84), (0, 0, 2, 2)),  # the whole crop of 64
        ((10, 20, 42, 52), (-0.5, -0.5, 1, 1)),  # its upper left quarter
        ((42, 52, 106, 84), (1, 0.5, 2, 1)),  # half outside on the right
    ):
        assert encode(box(*corners), corner, 64).tolist() == list(numbers)
        assert decode(box(*numbers), corner, 64).tolist() == list(corners)


@settings(max_examples=50)
@given(st.lists(real, min_size=4, max_size=4), real, real, st.sampled_from([32, 64, 224]))
def test_decoding_undoes_encoding(values: list[float], x: float, y: float, crop: int) -> None:
    x1, x2 = sorted(values[:2])
    y1, y2 = sorted(values[2:])
    corners, corner = box(x1, y1, x2, y2), box(x, y)
    again = decode(encode(corners, corner, crop), corner, crop)
    torch.testing.assert_close(again, corners, rtol=0, atol=1e-10)
    torch.testing.assert_close(mirror(mirror(corners, 300), 300), corners, rtol=0, atol=1e-10)


def test_negative_sizes_have_no_area() -> None:
    found = decode(box(0.5, 0, -1, 2), box(0, 0), 64)
    assert found.tolist() == [48, 0, 48, 64]
    assert float(area(found)) == 0


def test_mirrored_clipped_rescaled() -> None:
    assert mirror(box(1, 2, 4, 5), 10).tolist() == [6, 2, 9, 5]
    assert clip(box(-3, 1, 12, 30), (10, 20)).tolist() == [0, 1, 10, 20]
    assert rescale(box(1, 2, 3, 4), (10, 20), (20, 30)).tolist() == [2, 3, 6, 6]
