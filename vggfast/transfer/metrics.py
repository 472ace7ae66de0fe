"""How benchmarks score: average precision in two forms, mean class recall, accuracy.

Average precision of a class, images in the order of falling scores: precision and recall of the
first r of them, for each r. Of equal scores the earlier image comes first, as in the development
kits of Pascal VOC. What is 0 in ``marks`` ("difficult") counts neither as right nor as wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vggfast.errors import InputError


def ranked(scores: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Whether each image is of the class, in the order of falling scores, difficult ones left out.

    Args:
        scores: (N,), finite.
        marks: (N,), 1 of the class, -1 not, 0 difficult.

    Raises:
        InputError: lengths differ, or a score is not finite.
    """
    scores, marks = np.asarray(scores), np.asarray(marks)
    if scores.shape != marks.shape or scores.ndim != 1:
        raise InputError(
            f"marks: got shape {marks.shape} for scores of shape {scores.shape}, allowed is one "
            "mark for each score"
        )
    if not np.isfinite(scores).all():
        raise InputError("scores: got one that is not finite, allowed are finite numbers")
    counted = marks != 0
    order = np.argsort(-scores[counted], kind="stable")
    found: np.ndarray = (marks[counted] > 0)[order]
    return found


def eleven_point(hits: np.ndarray, positives: int | None = None) -> float:
    """VOC-2007's: the mean over recalls 0, 0.1, ..., 1 of the largest precision from there on.

    Args:
        hits: (N,), bool, in ranked order.
        positives: how many there are; by default those among ``hits``.

    Raises:
        InputError: there is no positive.
    """
    found, count, precision = _curve(hits, positives)
    # 10 found >= k count, in whole numbers: recall 3/10 is not below 0.3 by rounding.
    reached = [precision[10 * found >= k * count] for k in range(11)]
    return float(np.mean([p.max() if len(p) else 0.0 for p in reached]))


def area(hits: np.ndarray, positives: int | None = None) -> float:
    """VOC-2010's and later: the area below precision, made to fall, over recall.

    At each recall the precision is the largest from there on; this is what distinguishes it from
    scikit-learn's ``average_precision_score``, which it never is below. Arguments and errors as for
    :func:`eleven_point`.
    """
    found, count, precision = _curve(hits, positives)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(found, prepend=0)
    return float((envelope * steps).sum() / count)


def mean_class_recall(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> float:
    """The mean over classes of the share of a class's images that are recognised.

    Raises:
        InputError: lengths differ, or a class has no image.
    """
    return float(np.mean(class_recalls(predicted, labels, classes)))


def class_recalls(predicted: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Of each class the share of its images that are recognised, (classes,)."""
    right = _right(predicted, labels)
    count = np.bincount(labels, minlength=len(classes))
    if not count.all():
        name = classes[int(np.argmin(count > 0))]
        raise InputError(f"labels: class {name!r} has no test image, allowed is one or more")
    recalls: np.ndarray = np.bincount(labels, right, minlength=len(classes)) / count
    return recalls


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that are recognised. Raises InputError for none, or other lengths."""
    right = _right(predicted, labels)
    if not len(right):
        raise InputError("labels: got none, allowed is one test image or more")
    return float(right.mean())


def _right(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if np.shape(predicted) != np.shape(labels):
        raise InputError(
            f"labels: got {len(labels)} for {len(predicted)} predictions, allowed is as many"
        )
    return np.asarray(predicted) == np.asarray(labels)


def _curve(hits: np.ndarray, positives: int | None) -> tuple[np.ndarray, int, np.ndarray]:
    """Positives found after each rank, how many there are, and the precision at each rank."""
    found = np.cumsum(hits)
    count = int(found[-1]) if positives is None and len(found) else int(positives or 0)
    if count < 1:
        raise InputError("marks: got no image of the class, allowed is one or more")
    return found, count, found / np.arange(1, len(found) + 1)
