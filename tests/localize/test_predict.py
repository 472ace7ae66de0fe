"""``python -m vggfast.localize predict``: pictures and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vggfast.localization import protocols
from vggfast.localization.drawing import COLOURS, draw
from vggfast.localize import predict
from vggfast.localize.cli import main

from .helpers import DIGITS, save_classifier, save_regressor


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> list[str]:
    folder = tmp_path_factory.mktemp("nets")
    files = [str(save_regressor(folder / "boxes.safetensors")), str(folder / "c.safetensors")]
    save_classifier(Path(files[1]))
    return ["--weights", files[0], "--classifier", files[1]]


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    paths = []
    for name, size in (("a.png", (70, 90)), ("b.jpg", (250, 210)), ("c.png", (70, 90))):
        pixels = rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        image.fromarray(pixels).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


def test_pictures_and_json(
    nets: list[str], images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = pytest.importorskip("PIL.Image")
    out = tmp_path / "out"
    assert main(["predict", *images, *nets, "--out", str(out), "--top", "2"]) == 0
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "boxes.json", "c.png"]
    record = json.loads((out / "boxes.json").read_text())
    assert [entry["image"] for entry in record] == images
    for entry, size in zip(record, ((70, 90), (250, 210), (70, 90)), strict=True):
        assert entry["size"] == list(size)
        assert len(entry["found"]) == 2
        first, second = entry["found"]
        assert first["probability"] >= second["probability"] > 0
        for found in entry["found"]:
            assert found["name"] in DIGITS
            x1, y1, x2, y2 = found["box"]
            assert 0 <= x1 <= x2 <= size[0]
            assert 0 <= y1 <= y2 <= size[1]
    assert image.open(out / "a.png").size == (210, 270)  # enlarged, so that names fit
    assert image.open(out / "b.png").size == (250, 210)
    printed = capsys.readouterr().out
    assert printed.count("\n") == 3
    assert f"{images[1]}: {record[1]['found'][0]['name']} " in printed


def test_the_function_gives_what_is_written(nets: list[str], images: list[str]) -> None:
    """By one image as by several; another scale adds places, and so to the score."""
    options = {"weights": nets[1], "classifier": nets[3], "progress": False}
    several = predict(images, **options)  # type: ignore[arg-type]
    assert len(several) == 3
    (alone,) = predict(images[2], **options)  # type: ignore[arg-type]
    assert alone.found[0].name == several[2].found[0].name
    np.testing.assert_allclose(alone.found[0].box, several[2].found[0].box, atol=1e-3)
    (scaled,) = predict(images[2], **options, scales=(64, 96), merge_threshold=9)  # type: ignore[arg-type]
    assert scaled.found[0].score > 2 * alone.found[0].score


def test_drawn_where_the_box_is() -> None:
    image = pytest.importorskip("PIL.Image")
    picture = draw(image.new("RGB", (200, 160)), [(50, 60, 150, 140), (5, 5, 20, 150)], ["a", "b"])
    pixels = np.asarray(picture)
    red, green = (np.array([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in COLOURS[:2])
    for y, x in ((60, 100), (139, 100), (100, 50), (100, 149)):
        assert (pixels[y, x] == red).all()
    assert (pixels[100, 5] == green).all()
    for y, x in ((58, 100), (140, 100), (100, 48), (100, 150), (100, 100)):
        assert not (pixels[y, x] == red).all()


def test_a_name_at_the_border_stays_in_the_picture() -> None:
    image = pytest.importorskip("PIL.Image")
    for box in ((0, 0, 100, 20), (90, 0, 100, 10), (0, 70, 5, 80)):
        picture = np.asarray(draw(image.new("RGB", (100, 80)), [box], ["name"]))
        assert (picture.min(2) > 200).sum() > 10  # letters are white, with soft edges


def test_bad_input(
    nets: list[str], images: list[str], tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    taken = tmp_path / "file"
    taken.write_text("")
    out = ["--out", str(tmp_path / "out")]
    again = tmp_path / "other" / "a.png"
    again.parent.mkdir()
    again.write_bytes(Path(images[0]).read_bytes())
    for argv, words in (
        (["predict", *nets], "required: IMAGE"),
        (["predict", *images, *nets[:2]], "classifier: got none"),
        (["predict", str(tmp_path / "gone.png"), *nets], "images: no file"),
        (["predict", str(tmp_path / "broken.png"), *nets], "cannot read image"),
        (["predict", images[0], str(again), *nets, *out], "would be written over"),
        (["predict", *images, *nets, "--out", str(tmp_path)], "would be written over"),
        (["predict", *images, *nets, "--out", str(taken)], "out: cannot write"),
        (["predict", *images, *nets, "--top", "0"], "top: got 0"),
    ):
        assert words in refused(*argv, "--quiet"), argv
    assert Path(images[0]).read_bytes() == again.read_bytes()


def test_more_boxes_than_merging_has_memory_for(
    nets: list[str], images: list[str], refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 128 the image is 128 x 165, which has 3 x 4 places."""
    argv = ["predict", images[0], *nets, "--scales", "128", "--quiet"]
    monkeypatch.setattr(protocols, "MOST_BOXES", 12)
    assert main(argv) == 0
    monkeypatch.setattr(protocols, "MOST_BOXES", 11)
    assert "an image of 70 x 90 has 12 boxes of a class at all scales" in refused(*argv)
