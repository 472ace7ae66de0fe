"""Average precision and class recall against written-out definitions, scikit-learn, and a published
example.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vggfast.errors import InputError
from vggfast.transfer import metrics

RANKINGS = st.lists(st.booleans(), min_size=1, max_size=40).filter(any)


def curve(hits: list[bool], positives: int) -> list[tuple[float, float]]:
    """(recall, precision) of the first r, for each r."""
    points, right = [], 0
    for r, hit in enumerate(hits, 1):
        right += hit
        points.append((right / positives, right / r))
    return points


@given(RANKINGS)
def test_eleven_points_as_written_out(hits: list[bool]) -> None:
    points = curve(hits, sum(hits))
    total = 0.0
    for k in range(11):
        total += max((p for r, p in points if r >= k / 10 - 1e-9), default=0.0)
    assert metrics.eleven_point(np.array(hits)) == pytest.approx(total / 11)


@given(RANKINGS)
def test_area_as_the_development_kit_writes_it(hits: list[bool]) -> None:
    points = curve(hits, sum(hits))
    recall = [0.0, *(r for r, _ in points), 1.0]
    precision = [0.0, *(p for _, p in points), 0.0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    steps = zip(recall[1:], recall[:-1], precision[1:], strict=True)
    total = sum((now - before) * p for now, before, p in steps)
    assert metrics.area(np.array(hits)) == pytest.approx(total)


@given(RANKINGS)
def test_area_is_scikit_learns_where_precision_falls(hits: list[bool]) -> None:
    """There the envelope is the curve; elsewhere it lies above."""
    sklearn = pytest.importorskip("sklearn.metrics")
    theirs = sklearn.average_precision_score(hits, -np.arange(len(hits)))
    ours = metrics.area(np.array(hits))
    at_hits = [p for (_, p), hit in zip(curve(hits, sum(hits)), hits, strict=True) if hit]
    if at_hits == sorted(at_hits, reverse=True):
        assert ours == pytest.approx(theirs)
    else:
        assert ours > theirs


def test_a_published_example() -> None:
    """24 detections of 15 objects, from the README of rafaelpadilla/Object-Detection-Metrics: by
    11 points 26.84 %, by area 24.56 %.
    """
    hits = np.zeros(24, bool)
    hits[[0, 2, 9, 11, 12, 13, 22]] = True
    assert metrics.eleven_point(hits, 15) == pytest.approx(0.2684, abs=5e-5)
    assert metrics.area(hits, 15) == pytest.approx(0.2456, abs=1e-4)


def test_a_recall_that_rounding_would_miss() -> None:
    """Three of ten: 0.3 in floating point is below 3 * 0.1."""
    hits = np.array([True] * 3 + [False] * 97 + [True] * 7)
    assert 3 / 10 < 3 * 0.1
    assert metrics.eleven_point(hits) == pytest.approx((4 * 1.0 + 7 * 10 / 107) / 11)


def test_difficult_images_are_left_out_and_ties_keep_their_order() -> None:
    scores = np.array([5.0, 4.0, 3.0, 3.0, 1.0])
    marks = np.array([0, 1, -1, 1, 0])
    assert metrics.ranked(scores, marks).tolist() == [True, False, True]


def test_class_recall_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    ours = metrics.mean_class_recall(predicted, labels, "abcd")
    assert ours == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
    assert ours == pytest.approx(sklearn.recall_score(labels, predicted, average="macro"))
    right = metrics.accuracy(predicted, labels)
    assert right == pytest.approx(sklearn.accuracy_score(labels, predicted))


def test_what_cannot_be_scored() -> None:
    none = np.zeros(3, bool)
    for ap in (metrics.eleven_point, metrics.area):
        with pytest.raises(InputError, match="no image of the class"):
            ap(none)
    with pytest.raises(InputError, match=r"^marks: got shape \(2,\) for scores of shape \(3,\)"):
        metrics.ranked(np.zeros(3), np.ones(2))
    with pytest.raises(InputError, match="not finite"):
        metrics.ranked(np.array([np.nan]), np.ones(1))
    with pytest.raises(InputError, match=r"^labels: got 2 for 3 predictions"):
        metrics.accuracy(np.zeros(3), np.zeros(2))
    with pytest.raises(InputError, match="class 'b' has no test image"):
        metrics.mean_class_recall(np.zeros(3, int), np.zeros(3, int), "ab")
    with pytest.raises(InputError, match="got none"):
        metrics.accuracy(np.zeros(0), np.zeros(0))
