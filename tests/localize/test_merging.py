"""Greedy merging: hand-made cases, and a plain loop over pairs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggfast.localization import merging
from vggfast.localization.merging import best_boxes, match_scores, merge

Corners = tuple[float, float, float, float]


def score(a: Corners, b: Corners) -> float:
    """The match score, written out from docs/localization.md."""
    centres = [((c[0] + c[2]) / 2, (c[1] + c[3]) / 2) for c in (a, b)]
    diagonals = [math.dist(c[:2], c[2:]) for c in (a, b)]
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    overlap = both / (sum(areas) - both) if both else 0
    return math.dist(*centres) / (sum(diagonals) / 2) + 1 - overlap


def loop(boxes: list[Corners], t: float) -> list[tuple[Corners, set[int]]]:
    """What is left, with the boxes that went into each, by the rule as it is told."""
    groups = {i: (box, {i}) for i, box in enumerate(boxes)}
    while len(groups) > 1:
        pairs = [(i, j) for i in groups for j in groups if i < j]
        i, j = min(pairs, key=lambda pair: (score(groups[pair[0]][0], groups[pair[1]][0]), pair))
        if score(groups[i][0], groups[j][0]) > t:
            break
        (a, mine), (b, others) = groups[i], groups.pop(j)
        mean = tuple((p + q) / 2 for p, q in zip(a, b, strict=True))
        groups[i] = (mean, mine | others)  # type: ignore[assignment]
        groups = dict(sorted(groups.items()))
    return list(groups.values())


def found(boxes: np.ndarray, owner: np.ndarray) -> list[tuple[list[float], set[int]]]:
    places = sorted(set(owner.tolist()))
    return [(boxes[p].tolist(), set(np.flatnonzero(owner == p).tolist())) for p in places]


def test_known_match_scores() -> None:
    square = np.array([0.0, 0, 3, 4])  # diagonal 5
    for other, known in (
        ((0, 0, 3, 4), 0),
        ((3, 0, 6, 4), 3 / 5 + 1),  # beside it
        ((0, 0, 3, 8), 2 / ((5 + math.hypot(3, 8)) / 2) + 1 - 1 / 2),
        ((30, 40, 33, 44), 50 / 5 + 1),
    ):
        assert float(match_scores(square, np.array(other, float))) == pytest.approx(known)


def test_two_groups_and_one_alone() -> None:
    boxes = np.array([[
        (0, 0, 10, 10), (50, 50, 60, 60), (0, 0, 10, 12), (50, 52, 60, 60), (200, 0, 210, 5),
    ]], float)  # fmt: skip
    merged, owner = merge(boxes, 0.5)
    assert owner.tolist() == [[0, 1, 0, 1, 4]]
    assert merged[0, 0].tolist() == [0, 0, 10, 11]
    assert merged[0, 1].tolist() == [50, 51, 60, 60]
    assert merged[0, 4].tolist() == [200, 0, 210, 5]
    scores = np.array([[0.2, 0.3, 0.2, 0.3, 0.5]])
    best, total = best_boxes(merged, owner, scores)
    assert best.tolist() == [[50, 51, 60, 60]]  # 0.6, more than the 0.5 of one alone
    assert total[0] == pytest.approx(0.6)


def test_the_nearest_pair_goes_first_and_averages_are_of_pairs() -> None:
    """0 and 1 first, then their average with 2: not the mean of all three."""
    boxes = np.array([[(0, 0, 10, 10), (0, 0, 10, 11), (0, 0, 10, 14)]], float)
    merged, owner = merge(boxes, 1.0)
    assert owner.tolist() == [[0, 0, 0]]
    assert merged[0, 0].tolist() == [0, 0, 10, (10.5 + 14) / 2]


def test_a_chain_stops_at_the_threshold() -> None:
    boxes = np.array([[(0, 0, 10, 10), (2, 0, 12, 10)]], float)
    m = score((0, 0, 10, 10), (2, 0, 12, 10))
    assert merge(boxes, m + 1e-9)[1].tolist() == [[0, 0]]
    assert merge(boxes, m - 1e-9)[1].tolist() == [[0, 1]]


def test_equal_boxes_merge_at_zero() -> None:
    merged, owner = merge(np.array([[(1, 2, 3, 4)] * 4], float), 0.0)
    assert owner.tolist() == [[0, 0, 0, 0]]
    assert merged[0, 0].tolist() == [1, 2, 3, 4]


def test_boxes_without_area() -> None:
    """They match nothing better than 1, in their own place."""
    boxes = np.array([[(5, 5, 5, 5), (5, 5, 5, 5), (4, 4, 6, 6)]], float)
    assert merge(boxes, 0.99)[1].tolist() == [[0, 1, 2]]
    assert np.isfinite(merge(boxes, 1.0)[0]).all()


grid = st.integers(0, 12).map(float)
boxes_of = st.lists(
    st.tuples(grid, grid, st.integers(1, 8), st.integers(1, 8)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    min_size=1,
    max_size=9,
)


@given(boxes_of, st.sampled_from([0.0, 0.3, 0.6, 1.0, 2.0]))
def test_as_the_loop_over_pairs(boxes: list[Corners], t: float) -> None:
    merged, owner = merge(np.array([boxes]), t)
    expected = loop(boxes, t)
    mine = found(merged[0], owner[0])
    # Ties and rounding may choose another pair: compared where no two pairs are that close.
    values = sorted(score(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    if all(b - a > 1e-9 for a, b in pairwise(values)):
        assert [of for _, of in mine] == [of for _, of in expected]
        np.testing.assert_allclose([b for b, _ in mine], [b for b, _ in expected])


def test_many_random_boxes_as_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several problems at once, in parts of three."""
    monkeypatch.setattr(merging, "MATCH_BYTES", 8 * 30 * 30 * 3)
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (8, 30, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 60, (8, 30, 2))], -1)
    merged, owner = merge(boxes, 1.0)
    for p in range(8):
        expected = loop([tuple(b) for b in boxes[p]], 1.0)  # type: ignore[misc]
        mine = found(merged[p], owner[p])
        assert 1 < len(mine) < 15
        assert [of for _, of in mine] == [of for _, of in expected]
        np.testing.assert_allclose([b for b, _ in mine], [b for b, _ in expected])


def test_shared_boxes_are_merged_once_for_all_classes() -> None:
    rng = np.random.default_rng(1)
    corners = rng.uniform(0, 40, (3, 12, 2))
    boxes = np.concatenate([corners, corners + 20], -1)
    scores = rng.random((3, 5, 12))
    merged, owner = merge(boxes, 0.6)
    best, total = best_boxes(merged, owner, scores)
    assert best.shape == (3, 5, 4)
    for k in range(5):
        alone, sums = best_boxes(merged, owner, scores[:, k])
        assert np.array_equal(best[:, k], alone)
        np.testing.assert_allclose(total[:, k], sums)


def test_nothing_to_merge() -> None:
    for shape in ((0, 5, 4), (2, 1, 4)):
        merged, owner = merge(np.zeros(shape))
        assert merged.shape == shape
        assert owner.shape == shape[:2]
