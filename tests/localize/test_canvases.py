"""The small set with known boxes: what is written, where the item lies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from vggfast.data import open_images
from vggfast.errors import InputError
from vggfast.localization.canvases import NOISE, VISIBLE, compose, tight, write_canvases
from vggfast.localization.readers import find

from .helpers import DIGITS


def test_the_item_is_where_its_box_is() -> None:
    pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    item = np.zeros((28, 28), np.uint8)
    item[5:25, 10:20] = 200
    boxes = []
    for _ in range(200):
        canvas, box = compose(item, rng)
        assert NOISE <= VISIBLE  # so what is bright is the item
        assert tight(canvas) == box
        boxes.append(box)
    x1, y1, x2, y2 = np.array(boxes).T
    assert set(y2 - y1) == set(range(20, 41))  # the longer side
    assert (np.abs((y2 - y1) / 2 - (x2 - x1)) <= 1).all()  # its proportions
    assert x1.min() == 0
    assert x2.max() == 64
    assert np.std(x1) > 10


def test_nothing_to_see() -> None:
    assert tight(np.zeros((3, 5), np.uint8)) == (0, 0, 5, 3)


def test_the_set_is_read_as_photographs_and_as_boxes(canvases: Path) -> None:
    images = open_images(str(canvases), "val")
    assert images.classes == DIGITS
    assert len(images) == 40
    for part, count in (("train", 60), ("val", 40)):
        data = find(f"imagenet:{canvases}", part, DIGITS)
        assert len(data) == count
        assert Counter(data.source.labels) == Counter(open_images(str(canvases), part).labels)
    image, label = images[3]
    data = find(f"imagenet:{canvases}", "val", DIGITS)
    assert data.source.name(3) == images.name(3)
    assert data.source.labels[3] == label
    pixels = np.asarray(image.convert("L"))
    assert list(tight(pixels)) == data.boxes[3][0].tolist()


def test_the_same_seed_gives_the_same_set(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_canvases(tmp_path / name, "digits", train=3, val=2, seed=seed)
        files = sorted(p for p in (tmp_path / name).rglob("*") if p.is_file())
        found.append([(p.relative_to(tmp_path / name), p.read_bytes()) for p in files])
    assert len(found[0]) == 10
    assert found[0] == found[1] != found[2]


def test_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(InputError, match="is not empty"):
        write_canvases(tmp_path, "digits", train=1, val=1)
    with pytest.raises(InputError, match=r"sizes: got \(30, 20\)"):
        write_canvases(tmp_path / "b", "digits", train=1, val=1, sizes=(30, 20))
