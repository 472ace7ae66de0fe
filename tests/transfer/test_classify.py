"""Features to figures: splits, the choice of C, what each benchmark trains on and counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vggfast.errors import InputError
from vggfast.features import Features, classify, extract, load
from vggfast.features.cli import main
from vggfast.transfer import benchmarks, metrics, stack, svm, table

from .helpers import CLASSES, actions, caltech, voc

pytest.importorskip("sklearn")
Refused = Callable[..., str]


def features(labels: np.ndarray, parts: tuple[str, ...], seed: int = 0, **changed: Any) -> Features:
    """Vectors that lie around their class's corner, and what is needed around them."""
    rng = np.random.default_rng(seed)
    corners = labels if labels.ndim == 2 else np.eye(3)[labels]
    values = (corners + rng.normal(0, 0.4, (len(labels), 3))).astype(np.float32)
    manifest = {"kind": "folder", "settings": {"normalise": True}, "parts": []}
    names = tuple(f"{i}.png" for i in range(len(labels)))
    found = Features(values, names, labels, parts, CLASSES, None, manifest)
    return replace(found, **changed)


def of_one_class(n: int = 40) -> Features:
    return features(np.arange(2 * n) % 3, ("train",) * n + ("val",) * n)


def of_several(n: int = 40) -> Features:
    rng = np.random.default_rng(1)
    marks = np.where(rng.random((3 * n, 3)) < 0.4, 1, -1).astype(np.int8)
    marks[rng.random(marks.shape) < 0.1] = 0
    return features(marks, ("train",) * n + ("val",) * n + ("test",) * n)


def test_accuracy_is_that_of_scikit_learn_alone() -> None:
    from sklearn.svm import LinearSVC

    found = of_one_class()
    outcome = classify(found, c=(0.5,))
    model = LinearSVC(C=0.5, dual=False).fit(found.values[:40], found.labels[:40])
    assert outcome.figures == {"accuracy": model.score(found.values[40:], found.labels[40:])}
    assert (outcome.train, outcome.test, outcome.c) == (40, 40, (0.5,))
    assert outcome.benchmark == "accuracy"


def test_c_is_the_smallest_of_the_best_on_the_held_out_fifth() -> None:
    found = of_one_class(100)
    x, y = found.values[:100], found.labels[:100]
    kept, held = svm.split(y, 7)
    assert sorted([*kept, *held]) == list(range(100))
    assert np.bincount(y[held]).tolist() == [7, 7, 7]
    fitting = svm.Fitting(7)
    c, scores = svm.choose_c(x, y, svm.one_of_many, metrics.accuracy, (10, 1e-4, 1, 0.1), fitting)
    by_hand = {}
    for value in (10, 1e-4, 1, 0.1):
        model = svm.one_of_many(x[kept], y[kept], value, fitting)
        by_hand[value] = float((model(x[held]) == y[held]).mean())
    assert scores == by_hand
    assert c == min(v for v in by_hand if by_hand[v] == max(by_hand.values()))
    again = classify(found, c=(10, 1e-4, 1, 0.1), seed=7)
    assert again.c == (c,)


@pytest.mark.parametrize(
    ("name", "train", "test", "headline"),
    [
        ("voc2007", slice(0, 80), slice(80, 120), "mAP, 11 points"),
        ("voc2012", slice(0, 40), slice(40, 80), "mAP, area"),
        ("voc-action", slice(0, 40), slice(40, 80), "mAP, area"),
    ],
)
def test_voc(name: str, train: slice, test: slice, headline: str) -> None:
    """A class's SVM, and its AP, do without the images that are difficult for it."""
    from sklearn.svm import LinearSVC

    found = of_several()
    outcome = classify(found, benchmark=name, c=(1.0,))
    x, y = found.values[train], found.labels[train]
    aps = {"mAP, 11 points": [], "mAP, area": []}  # type: dict[str, list[float]]
    for k in range(3):
        known = y[:, k] != 0
        model = LinearSVC(C=1.0, dual=False)
        model.fit(x[known], y[known, k])
        counted = found.labels[test][:, k] != 0
        scores = model.decision_function(found.values[test][counted])
        hits = (found.labels[test][counted, k] == 1)[np.argsort(-scores, kind="stable")]
        aps["mAP, 11 points"].append(metrics.eleven_point(hits))
        aps["mAP, area"].append(metrics.area(hits))
    assert next(iter(outcome.figures)) == headline
    for measure, values in aps.items():
        assert outcome.figures[measure] == pytest.approx(np.mean(values))
    assert list(outcome.by_class.values()) == pytest.approx(aps[headline])
    assert (outcome.train, outcome.test) == (train.stop - train.start, test.stop - test.start)


def test_the_held_out_fifth_of_marks_leaves_every_class_both_kinds() -> None:
    marks = np.full((20, 3), -1, np.int8)
    marks[3, 0] = marks[5, 1] = marks[6, 1] = 1  # one image of class 0, two of class 1
    marks[:, 2] = 1
    marks[8, 2] = -1
    for seed in range(20):
        kept, held = svm.split(marks, seed)
        assert len(held) == 4
        assert not set(kept) & set(held)
        for column in marks[kept].T:
            assert {-1, 1} <= set(column.tolist())


def test_random_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(3), [9, 14, 30])
    found = features(labels, ("all",) * 53)
    seen = []
    split = benchmarks.random_split
    monkeypatch.setattr(
        benchmarks, "random_split", lambda *args: seen.append(split(*args)) or seen[-1]
    )
    outcome = classify(
        found, benchmark="caltech101", splits=4, train_per_class=6, test_per_class=10, c=(1.0,)
    )
    assert len(seen) == 4
    recalls = []
    for train, test in seen:
        assert not set(train) & set(test)
        assert np.bincount(labels[train]).tolist() == [6, 6, 6]
        assert np.bincount(labels[test]).tolist() == [3, 8, 10]
        model = svm.one_of_many(found.values[train], labels[train], 1.0, svm.Fitting())
        predicted = model(found.values[test])
        recalls.append([np.mean(predicted[labels[test] == k] == k) for k in range(3)])
    assert len({tuple(train) for train, _ in seen}) == 4
    by_split = np.mean(recalls, 1)
    assert outcome.figures == {"mean class recall": pytest.approx(by_split.mean())}
    assert outcome.deviation == pytest.approx(np.std(by_split, ddof=1))
    assert list(outcome.by_class.values()) == pytest.approx(np.mean(recalls, 0).tolist())
    assert (outcome.train, outcome.test) == (18, 21)
    # Without a limit all others are tested, as Caltech-256 does.
    seen.clear()
    whole = classify(found, benchmark="caltech256", splits=1, train_per_class=6, c=(1.0,))
    assert (whole.test, whole.deviation) == (35, None)


def test_stacked_folders() -> None:
    a, b = of_one_class(), replace(of_one_class(), values=2 * of_one_class().values)
    found = stack([a, b])
    whole = np.concatenate([a.values, b.values], 1) / np.sqrt(2)
    np.testing.assert_allclose(found.values, whole, rtol=1e-6)
    with pytest.raises(InputError, match="records that are not the same"):
        stack([a, replace(b, names=b.names[::-1])])
    boxed = [replace(a, boxes=np.full((80, 4), float(i))) for i in range(2)]
    stack([a, boxed[0], boxed[0]])
    with pytest.raises(InputError, match="allowed are folders of the same images, boxes"):
        stack(boxed)
    with pytest.raises(InputError, match="got none"):
        stack([])


def test_titles_of_stacked_folders() -> None:
    def manifest(net: str, layer: str) -> dict[str, Any]:
        part = {"net": net, "region": "image", "scales": [256]}
        return {"settings": {"layer": layer, "combine": "average"}, "parts": [part]}

    d, e, other = manifest("D", "relu7"), manifest("E", "relu7"), manifest("E", "pool5")
    assert table.titles([d]) == "D, relu7, Q = 256, image"
    assert table.titles([d, e]) == "D + E, relu7, Q = 256, image"
    both = "(D, relu7, Q = 256, image) + (E, pool5, Q = 256, image)"
    assert table.titles([d, other]) == both


def test_bad_numbers() -> None:
    found = of_one_class()

    def refused(told: str, **options: Any) -> None:
        with pytest.raises(InputError, match=told):
            classify(**{"features": found, **options})

    refused(r"^benchmark: got 'coco', allowed are voc2007, ", benchmark="coco")
    refused(r"^benchmark: got 'voc2007' for features with one class", benchmark="voc2007")
    refused("several classes an image", features=of_several(), benchmark="accuracy")
    for value in (0.0, 1e-300, float("nan"), float("inf")):  # of 1e-300 LIBLINEAR makes no end
        refused(r"^c: got \[.*\], allowed are one or more numbers from 1e-09 to 1e\+09", c=[value])
    refused(r"^c: got \[\]", c=[])
    refused(r"^parts: got 'dev', allowed here are train, val", test="dev")
    refused(r"^parts: got 'trian', allowed here are train, val", train="train,trian")
    refused(r"^test: got 'train', which trains too", test="val,train")
    refused(r"^seed: got -1", seed=-1)
    refused(r"^seed: got 4294967296", seed=2**32)
    refused(r"^splits: got 5 for accuracy, whose parts are given", splits=5)
    refused(r"^train_per_class: got 5 for accuracy", train_per_class=5)
    refused(r"^train_per_class: got 0, allowed", benchmark="caltech101", train_per_class=0)
    refused(r"^test: got 'val' for caltech101", benchmark="caltech101", test="val")
    refused(r"^splits: got 0", benchmark="caltech101", splits=0)
    refused("train_per_class: got 30, but class 'ant' has 27 images", benchmark="caltech101")
    refused("c: got 6 values and no image", benchmark="caltech101", train_per_class=1)


def test_classes_without_examples() -> None:
    found = of_one_class()
    lacking = replace(found, labels=np.where(found.labels == 1, 0, found.labels))
    with pytest.raises(InputError, match="class 'bee' has no image to train"):
        classify(lacking)
    unknown = replace(found, labels=np.full(80, -1))
    with pytest.raises(InputError, match="images without a class"):
        classify(unknown)
    marked = of_several()
    for rows, part in ((slice(0, 80), "train"), (slice(80, 120), "test")):
        marks = marked.labels.copy()
        marks[rows, 2] = -1
        with pytest.raises(InputError, match=f"class 'cat' has 0 images of it .* to {part}"):
            classify(replace(marked, labels=marks), benchmark="voc2007")


def test_features_and_labels_of_different_lengths() -> None:
    with pytest.raises(InputError, match=r"^labels: got 3 for 80 feature vectors"):
        replace(of_one_class(), labels=np.zeros(3, np.int64))
    x, y = np.zeros((4, 2)), np.array([0, 1, 0])
    with pytest.raises(InputError, match=r"^labels: got 3 for 4 feature vectors"):
        benchmarks.accuracy(x, y, x, y, "ab")
    with pytest.raises(InputError, match=r"^test_labels: got 3 for 4 feature vectors"):
        benchmarks.accuracy(x[:3], y, x, y, "ab")
    with pytest.raises(InputError, match=r"^test_features: got vectors of \(3,\)"):
        benchmarks.accuracy(x[:3], y, np.zeros((3, 3)), y, "ab")
    with pytest.raises(InputError, match="features: got numbers that are not finite"):
        benchmarks.accuracy(x[:3] + np.nan, y, x[:3], y, "ab")


def test_the_command_on_voc(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files to a table: classes that differ by colour, which random weights tell apart."""
    voc(tmp_path, each=9)
    out, table, record = tmp_path / "f", tmp_path / "t.md", tmp_path / "r.json"
    extract(weights=net, data=f"voc2007:{tmp_path}", out=out, scales="32", progress=False)
    assert (
        main(["classify", "--features", str(out), "--table", str(table), "--json", str(record)])
        == 0
    )
    printed = capsys.readouterr().out
    assert printed == table.read_text()
    lines = printed.splitlines()
    assert lines[0] == "| features | dimension | benchmark | measure | result (%) | C |"
    assert lines[2].startswith("| A, relu7, Q = 32, image | 32 | voc2007 | mAP, 11 points | ")
    found = json.loads(record.read_text())
    assert found["outcome"]["figures"]["mAP, 11 points"] > 0.9
    assert (found["outcome"]["train"], found["outcome"]["test"]) == (18, 9)
    assert main(["classify", "--features", str(out), "--table", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text().count("\n") == 3


def test_the_command_on_actions_and_caltech(
    net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions(tmp_path)
    caltech(tmp_path, each=6)
    common = ["extract", "--weights", str(net), "--scales", "one", "--device", "cpu", "--quiet"]
    out = [str(tmp_path / name) for name in ("action", "caltech")]
    assert (
        main([*common, "--data", f"voc-action:{tmp_path}", "--region", "both", "--out", out[0]])
        == 0
    )
    assert main([*common, "--data", f"caltech101:{tmp_path}", "--out", out[1]]) == 0
    assert load(out[0]).values.shape == (18, 64)
    assert main(["classify", "--features", out[0]]) == 0
    assert "image and box | 64 | voc-action | mAP, area |" in capsys.readouterr().out
    assert main(["classify", "--features", out[1], "--train-per-class", "4", "--c", "1,10"]) == 0
    assert " ± " in capsys.readouterr().out
