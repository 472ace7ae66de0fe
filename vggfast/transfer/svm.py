"""Linear support vector machines, one against the rest, by scikit-learn; C from a held-out split.

The paper fixes the network and trains linear SVMs on its features; a fifth of the training images
chooses C, and the SVM is then fitted to all of them. What the paper leaves open: the loss is
LIBLINEAR's squared hinge, C comes from ``GRID``, one for all classes, and the smallest of those
that score best.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vggfast.data.base import require
from vggfast.errors import InputError

GRID = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
ENDS = (1e-9, 1e9)  # of what C may be: far beyond, LIBLINEAR does not come back
HELD_OUT = 0.2
ROUNDS = 1000  # LIBLINEAR's iterations; it says when they were not enough

Score = Callable[
    [np.ndarray, np.ndarray], float
]  # (decisions or predictions, truth) -> larger is better


@dataclass
class Fitting:
    """What is to know about the fits of a run.

    Attributes:
        seed: of held-out splits and of LIBLINEAR.
        unfinished: fits that ``ROUNDS`` iterations were not enough for.
    """

    seed: int = 0
    unfinished: int = 0


def one_of_many(
    x: np.ndarray, labels: np.ndarray, c: float, fitting: Fitting
) -> Callable[[np.ndarray], np.ndarray]:
    """An SVM for images of one class each: features to class numbers."""
    model = _fit(x, labels, c, fitting)
    return lambda features: np.asarray(model.predict(features))


def any_of_many(
    x: np.ndarray, marks: np.ndarray, c: float, fitting: Fitting
) -> Callable[[np.ndarray], np.ndarray]:
    """An SVM a class, for images with marks (N, K) 1, -1 or 0: features to scores (N, K).

    An image that is 0 for a class takes no part in that class's training.
    """
    models = []
    for k in range(marks.shape[1]):
        known = marks[:, k] != 0
        models.append(_fit(x[known], marks[known, k] > 0, c, fitting))
    return lambda features: np.stack([m.decision_function(features) for m in models], 1)


def choose_c(
    x: np.ndarray,
    truth: np.ndarray,
    fit: Callable[..., Callable[[np.ndarray], np.ndarray]],
    score: Score,
    grid: Sequence[float],
    fitting: Fitting,
) -> tuple[float, dict[float, float]]:
    """The C whose SVM, fitted to four fifths of the images, scores best on the fifth.

    Args:
        x: (N, F) training features.
        truth: (N,) labels, or (N, K) marks.
        fit: :func:`one_of_many` or :func:`any_of_many`.
        score: of what ``fit``'s result gives for the held-out images, and their truth.
        grid: what C may be.
        fitting: its seed draws the split.

    Returns:
        C, and the score of each C; of a grid of one number that one, and nothing.

    Raises:
        InputError: the grid is empty or has a number outside ``ENDS``, or there are so few images
            that none can be held out.
    """
    check_grid(grid)
    if len(grid) == 1:
        return float(grid[0]), {}
    kept, held = split(truth, fitting.seed)
    if not len(held):
        raise InputError(
            f"c: got {len(grid)} values and no image to choose among them, as each class has too "
            "few; allowed is one value"
        )
    scores = {
        c: score(fit(x[kept], truth[kept], c, fitting)(x[held]), truth[held]) for c in sorted(grid)
    }
    return max(scores, key=lambda c: scores[c]), scores


def split(truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit to, and a fifth that is held out.

    A fifth of each class, rounded, of labels (N,); of marks (N, K) a fifth of the images, drawn so
    that every class keeps images of both kinds to fit to, where it has two or more.
    """
    rng = np.random.default_rng(seed)
    if truth.ndim == 1:
        held = [
            rows[: max(round(HELD_OUT * len(rows)), int(len(rows) > 1))]
            for rows in (rng.permutation(np.flatnonzero(truth == k)) for k in np.unique(truth))
        ]
        taken = np.sort(np.concatenate(held))
    else:
        left = np.stack([(truth > 0).sum(0), (truth < 0).sum(0)])
        rows: list[int] = []
        for row in rng.permutation(len(truth)):
            mine = np.stack([truth[row] > 0, truth[row] < 0])
            if len(rows) < round(HELD_OUT * len(truth)) and (left[mine] > 1).all():
                left = left - mine
                rows.append(row)
        taken = np.sort(np.array(rows, np.int64))
    return np.setdiff1d(np.arange(len(truth)), taken), taken


def check_grid(grid: Sequence[float]) -> None:
    """Raise InputError if C cannot be one of ``grid``."""
    low, high = ENDS
    if not len(grid) or not all(low <= c <= high for c in grid):
        raise InputError(
            f"c: got {list(grid)}, allowed are one or more numbers from {low:g} to {high:g}"
        )


def _fit(x: np.ndarray, y: np.ndarray, c: float, fitting: Fitting) -> Any:
    svm = require("sklearn.svm", "scikit-learn")
    exceptions = require("sklearn.exceptions", "scikit-learn")
    # The primal: by Newton's method it comes to its end for a large C too, which features of length
    # 1 want, where coordinate descent on the dual takes thousands of iterations.
    model = svm.LinearSVC(C=c, dual=False, max_iter=ROUNDS, random_state=fitting.seed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", exceptions.ConvergenceWarning)
        model.fit(x, y)
    fitting.unfinished += any(issubclass(w.category, exceptions.ConvergenceWarning) for w in caught)
    return model
