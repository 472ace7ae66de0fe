"""Features to a benchmark's figure: which images train and test, and what is counted.

| name | train | test | measure |
|---|---|---|---|
| voc2007 | train, val | test | mean of 11-point average precision; area beside it |
| voc2012 | train | val | mean average precision (area); the test part's marks are not public |
| voc-action | train | val | the same |
| caltech101 | 30 a class, random | up to 50 others a class | mean class recall; 3 splits |
| caltech256 | 60 a class, random | all others | mean class recall; 3 splits |
| accuracy | train | val | share of images that are recognised |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vggfast.engine import checks
from vggfast.errors import InputError
from vggfast.transfer import metrics
from vggfast.transfer.reader import Features
from vggfast.transfer.svm import (
    GRID,
    Fitting,
    any_of_many,
    check_grid,
    choose_c,
    one_of_many,
)  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """How a data set is scored.

    Attributes:
        train, test: parts; ``test`` empty: random splits of all images.
        measure: the headline figure.
        train_per_class, test_per_class: images of a random split; the latter None: all others.
    """

    train: tuple[str, ...]
    test: tuple[str, ...]
    measure: str
    train_per_class: int = 0
    test_per_class: int | None = None


ELEVEN, AREA = "mAP, 11 points", "mAP, area"
RECALL, ACCURACY = "mean class recall", "accuracy"
SPLITS = 3

BENCHMARKS = {
    "voc2007": Benchmark(("train", "val"), ("test",), ELEVEN),
    "voc2012": Benchmark(("train",), ("val",), AREA),
    "voc-action": Benchmark(("train",), ("val",), AREA),
    "caltech101": Benchmark((), (), RECALL, 30, 50),
    "caltech256": Benchmark((), (), RECALL, 60),
    "accuracy": Benchmark(("train",), ("val",), ACCURACY),
}


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found.

    Attributes:
        benchmark: its name.
        figures: by measure, the headline first; means over splits, as fractions.
        deviation: of the headline over splits (that of a sample, n - 1); None for one split.
        c: chosen, for each split.
        by_class: of the headline's measure, for each class; means over splits. Empty for accuracy.
        train, test: numbers of images, of one split.
        unfinished: fits that LIBLINEAR did not bring to an end.
    """

    benchmark: str
    figures: dict[str, float]
    deviation: float | None
    c: tuple[float, ...]
    by_class: dict[str, float] = field(default_factory=dict)
    train: int = 0
    test: int = 0
    unfinished: int = 0


def score(
    features: Features,
    benchmark: str,
    *,
    train: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    splits: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    grid: Sequence[float] = GRID,
    seed: int = 0,
) -> Outcome:
    """Train and test as ``benchmark`` says; the other arguments take the place of its numbers.

    Raises:
        InputError: no such benchmark, an argument that it does not know, a part that is not there
            or that both trains and tests, or a class without examples.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"benchmark: got {benchmark!r}, allowed are {', '.join(BENCHMARKS)}")
    plan = BENCHMARKS[benchmark]
    check_grid(grid)
    checks.integer("seed", seed, 0)
    if seed >= 2**32:
        raise InputError(f"seed: got {seed}, allowed are whole numbers below 2^32")
    of_splits = {
        "splits": splits, "train_per_class": train_per_class, "test_per_class": test_per_class
    }  # fmt: skip
    for name, value in of_splits.items():
        if plan.test and value is not None:
            raise InputError(f"{name}: got {value!r} for {benchmark}, whose parts are given")
    for name, parts in (("train", train), ("test", test)):
        if not plan.test and parts is not None:
            raise InputError(
                f"{name}: got {','.join(parts)!r} for {benchmark}, whose splits are random"
            )
    marked = features.labels.ndim == 2
    if marked != (plan.measure in (ELEVEN, AREA)):
        what = "several classes an image" if marked else "one class an image"
        raise InputError(f"benchmark: got {benchmark!r} for features with {what}")
    if plan.measure == RECALL:
        number = SPLITS if splits is None else splits
        per_class = plan.train_per_class if train_per_class is None else train_per_class
        most = plan.test_per_class if test_per_class is None else test_per_class
        return random_splits(features, benchmark, number, per_class, most, grid, seed)
    to_train = plan.train if train is None else train
    to_test = plan.test if test is None else test
    if both := sorted(set(to_train) & set(to_test)):
        raise InputError(f"test: got {both[0]!r}, which trains too, allowed are other parts")
    rows, others = (_rows(features, parts) for parts in (to_train, to_test))
    x, y = features.values, features.labels
    data = (x[rows], y[rows], x[others], y[others], features.classes)
    if marked:
        return average_precision(*data, benchmark=benchmark, grid=grid, seed=seed)
    return accuracy(*data, benchmark=benchmark, grid=grid, seed=seed)


def accuracy(
    x: np.ndarray,
    y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    classes: Sequence[str],
    *,
    benchmark: str = "accuracy",
    grid: Sequence[float] = GRID,
    seed: int = 0,
) -> Outcome:
    """Accuracy of an SVM on arrays: features (N, F) and class numbers (N,), to train and to test.

    Raises:
        InputError: lengths or widths differ, or a class has no example to train on.
    """
    _check_arrays(x, y, test_x, test_y)
    _check_labels(y, classes, "train")
    if (test_y < 0).any():
        raise InputError("test_labels: got images without a class, allowed are class numbers")
    fitting = Fitting(seed)
    c, _ = choose_c(x, y, one_of_many, metrics.accuracy, grid, fitting)
    predicted = one_of_many(x, y, c, fitting)(test_x)
    figures = {ACCURACY: metrics.accuracy(predicted, test_y)}
    return Outcome(benchmark, figures, None, (c,), {}, len(x), len(test_x), fitting.unfinished)


def average_precision(
    x: np.ndarray,
    marks: np.ndarray,
    test_x: np.ndarray,
    test_marks: np.ndarray,
    classes: Sequence[str],
    *,
    benchmark: str = "voc2007",
    grid: Sequence[float] = GRID,
    seed: int = 0,
) -> Outcome:
    """Mean average precision of an SVM a class: features (N, F) and marks (N, classes).

    Raises:
        InputError: lengths or widths differ, or a class lacks examples to train on or to test with.
    """
    _check_arrays(x, marks, test_x, test_marks)
    for part, given in (("train", marks), ("test", test_marks)):
        for k, name in enumerate(classes):
            if not (given[:, k] > 0).any() or (part == "train" and not (given[:, k] < 0).any()):
                raise InputError(
                    f"marks: class {name!r} has {(given[:, k] > 0).sum()} images of it and "
                    f"{(given[:, k] < 0).sum()} without it to {part}, allowed is one or more"
                )
    headline = BENCHMARKS[benchmark].measure
    ap = {ELEVEN: metrics.eleven_point, AREA: metrics.area}
    order = sorted(ap, key=lambda name: name != headline)
    fitting = Fitting(seed)
    c, _ = choose_c(x, marks, any_of_many, _mean_over_classes(ap[headline]), grid, fitting)
    scores = any_of_many(x, marks, c, fitting)(test_x)
    hits = [metrics.ranked(scores[:, k], test_marks[:, k]) for k in range(len(classes))]
    figures = {name: float(np.mean([ap[name](h) for h in hits])) for name in order}
    by_class = {name: ap[headline](h) for name, h in zip(classes, hits, strict=True)}
    return Outcome(
        benchmark, figures, None, (c,), by_class, len(x), len(test_x), fitting.unfinished
    )


def random_splits(
    features: Features,
    benchmark: str,
    splits: int,
    train_per_class: int,
    test_per_class: int | None,
    grid: Sequence[float],
    seed: int,
) -> Outcome:
    """Mean class recall over random splits.

    Raises:
        InputError: a class has too few images, or numbers are below 1.
    """
    x, y, classes = features.values, features.labels, features.classes
    numbers = {"splits": splits, "train_per_class": train_per_class}
    if test_per_class is not None:
        numbers["test_per_class"] = test_per_class
    for name, value in numbers.items():
        checks.integer(name, value, 1)
    _check_labels(y, classes, "train")
    recalls, chosen, sizes = [], [], (0, 0)
    fitting = Fitting(seed)
    for number in range(splits):
        train, test = random_split(
            y, classes, train_per_class, test_per_class, np.random.default_rng([seed, number])
        )

        def recall(predicted: np.ndarray, labels: np.ndarray) -> float:
            known = np.unique(labels)
            place = np.searchsorted(known, labels)
            return float((np.bincount(place, predicted == labels) / np.bincount(place)).mean())

        c, _ = choose_c(x[train], y[train], one_of_many, recall, grid, fitting)
        predicted = one_of_many(x[train], y[train], c, fitting)(x[test])
        recalls.append(metrics.class_recalls(predicted, y[test], classes))
        chosen.append(c)
        sizes = (len(train), len(test))
    means = np.mean(recalls, 1)
    return Outcome(
        benchmark,
        {RECALL: float(means.mean())},
        float(means.std(ddof=1)) if splits > 1 else None,
        tuple(chosen),
        dict(zip(classes, np.mean(recalls, 0).tolist(), strict=True)),
        *sizes,
        fitting.unfinished,
    )


def random_split(
    labels: np.ndarray,
    classes: Sequence[str],
    train: int,
    test: int | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``train`` random images of each class, and of up to ``test`` others of each.

    Raises:
        InputError: a class has not one image more than ``train``.
    """
    first, second = [], []
    for k, name in enumerate(classes):
        rows = rng.permutation(np.flatnonzero(labels == k))
        if len(rows) <= train:
            raise InputError(
                f"train_per_class: got {train}, but class {name!r} has {len(rows)} images, allowed "
                "is one less than the smallest class has"
            )
        first.append(rows[:train])
        second.append(rows[train : None if test is None else train + test])
    return np.sort(np.concatenate(first)), np.sort(np.concatenate(second))


def _mean_over_classes(
    ap: Callable[[np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Over the classes that a held-out part has images of; those it has none of say nothing."""

    def score(scores: np.ndarray, marks: np.ndarray) -> float:
        known = [k for k in range(marks.shape[1]) if (marks[:, k] > 0).any()]
        found = [ap(metrics.ranked(scores[:, k], marks[:, k])) for k in known]
        return float(np.mean(found)) if found else 0.0

    return score


def _rows(features: Features, parts: Sequence[str]) -> np.ndarray:
    known = dict.fromkeys(features.parts)
    for part in parts:
        if part not in known:
            raise InputError(f"parts: got {part!r}, allowed here are {', '.join(known)}")
    return np.flatnonzero([part in parts for part in features.parts])


def _check_labels(labels: np.ndarray, classes: Sequence[str], part: str) -> None:
    if not len(classes) or (labels < 0).any():
        raise InputError("labels: got images without a class, allowed are sets with classes")
    if len(classes) < 2 or labels.max() >= len(classes):
        raise InputError(
            f"labels: got class numbers up to {labels.max()} of {len(classes)} classes, allowed "
            "are two classes or more, and their numbers"
        )
    count = np.bincount(labels, minlength=len(classes))
    if not count.all():
        name = classes[int(np.argmin(count > 0))]
        raise InputError(f"labels: class {name!r} has no image to {part}, allowed is one or more")


def _check_arrays(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> None:
    for name, features, labels in (("", x, y), ("test_", test_x, test_y)):
        if len(features) != len(labels):
            raise InputError(
                f"{name}labels: got {len(labels)} for {len(features)} feature vectors, allowed is "
                "one for each"
            )
        if not np.isfinite(features).all():
            raise InputError(f"{name}features: got numbers that are not finite")
    if x.shape[1:] != test_x.shape[1:]:
        raise InputError(
            f"test_features: got vectors of {test_x.shape[1:]}, allowed are {x.shape[1:]}, as many "
            "numbers as in training"
        )
