"""Readers of VOC, Caltech and plain folders, on small folders of the same layouts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from vggfast.errors import InputError
from vggfast.transfer.boxes import read_annotation
from vggfast.transfer.collection import open_collection

from .helpers import CLASSES, actions, annotation, caltech, lines, picture, voc


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_voc(below: str, tmp_path: Path) -> None:
    voc(tmp_path, each=8)
    found = open_collection(f"voc2007:{tmp_path / below}")
    assert found.classes == CLASSES
    assert found.records.parts == ("train",) * 8 + ("val",) * 8 + ("test",) * 8
    assert found.records.names[:2] == ("JPEGImages/000000.jpg", "JPEGImages/000001.jpg")
    assert found.records.labels.dtype == np.int8
    # Image 3 is of class 0; an object of class 1 in it is difficult.
    assert found.records.labels[:4].tolist() == [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 0, -1]]
    assert found.pictures.decode(9).size == (40, 36)


def test_voc_marks_of_two_parts_in_one_file(tmp_path: Path) -> None:
    voc(tmp_path, each=4)
    before = open_collection(f"voc2007:{tmp_path}").records
    main = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    for name in CLASSES:
        files = [main / f"{name}_{part}.txt" for part in ("train", "val")]
        (main / f"{name}_trainval.txt").write_text("".join(f.read_text() for f in files))
        for file in files:
            file.unlink()
    after = open_collection(f"voc2007:{tmp_path}").records
    np.testing.assert_array_equal(after.labels, before.labels)
    assert after.digest() == before.digest()


def test_voc_marks_from_the_objects(tmp_path: Path) -> None:
    """Of test, whose files of marks are missing; then without annotations too."""
    voc(tmp_path, each=8)
    before = open_collection(f"voc2007:{tmp_path}", parts="test").records
    home = tmp_path / "VOCdevkit/VOC2007"
    for name in CLASSES:
        (home / f"ImageSets/Main/{name}_test.txt").unlink()
    after = open_collection(f"voc2007:{tmp_path}", parts="test").records
    np.testing.assert_array_equal(after.labels, before.labels)
    shutil.rmtree(home / "Annotations")
    unknown = open_collection(f"voc2007:{tmp_path}", parts="test").records
    assert not unknown.labels.any()


def test_voc_actions(tmp_path: Path) -> None:
    actions(tmp_path)
    found = open_collection(f"voc-action:{tmp_path}")
    assert found.classes == ("jumping", "reading")
    assert found.records.parts == ("train",) * 6 + ("val",) * 6 + ("test",) * 6
    assert found.records.labels[:2].tolist() == [[1, -1], [-1, 1]]
    assert not found.records.labels[12:].any()  # the test part's are unknown
    assert found.records.boxes is not None
    # VOC counts from 1 and includes the last pixel; the person is the second object.
    np.testing.assert_allclose(found.records.boxes[0], [4, 5, 44.7, 45])
    # "other" is no class, and train.txt may name images alone: persons are those with marks.
    assert found.records.names[0] == "JPEGImages/2010_000000.jpg"


@pytest.mark.parametrize("below", ["", "101_ObjectCategories"])
def test_caltech(below: str, tmp_path: Path) -> None:
    caltech(tmp_path, each=2)
    found = open_collection(f"caltech101:{tmp_path / below}")
    assert found.classes == ("BACKGROUND_Google", "Faces", "yin_yang")
    assert found.records.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert set(found.records.parts) == {"all"}
    assert found.records.names[2] == "Faces/image_0001.jpg"


def test_caltech_256(tmp_path: Path) -> None:
    for name in ("001.ak47", "257.clutter"):
        picture(tmp_path / "256_ObjectCategories" / name / f"{name[:3]}_0001.jpg")
    found = open_collection(f"caltech256:{tmp_path}")
    assert found.classes == ("001.ak47", "257.clutter")
    assert found.records.names == ("001.ak47/001_0001.jpg", "257.clutter/257_0001.jpg")


def test_parts_and_limits(tmp_path: Path) -> None:
    voc(tmp_path, each=4)
    found = open_collection(f"voc2007:{tmp_path}", parts="val,test", limit=2).records
    assert found.parts == ("val", "val", "test", "test")
    assert found.names[0] == "JPEGImages/000004.jpg"
    with pytest.raises(
        InputError, match=r"^part: got 'trainval', allowed here are all, train, val"
    ):
        open_collection(f"voc2007:{tmp_path}", parts="trainval")
    with pytest.raises(InputError, match=r"^part: got 'test', allowed are all, train, val"):
        open_collection("digits", parts="test")


def test_boxes_of_a_part(tmp_path: Path) -> None:
    """A file may have boxes of the whole set."""
    names = [f"{part}/{c}/0.png" for part in ("train", "val") for c in "xy"]
    for name in names:
        picture(tmp_path / "set" / name)
    boxes = tmp_path / "boxes.csv"
    lines(boxes, "image,left,top,right,bottom", *(f"{name},0,0,9,9" for name in names))
    for parts, expected in (("val", names[2:]), ("all", names)):
        found = open_collection(str(tmp_path / "set"), parts=parts, boxes=str(boxes))
        assert list(found.records.names) == expected


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    def refused(data: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            open_collection(data)

    refused("voc2007:", r"^data: got 'voc2007:', allowed is voc2007:DIR")
    refused(f"voc2007:{tmp_path / 'none'}", "^data: no folder ")
    refused(f"voc2007:{tmp_path}", "no ImageSets/Main in")
    refused(f"voc-action:{tmp_path}", "no ImageSets/Action in")
    refused(f"images:{tmp_path}", "no image in")
    refused(f"caltech101:{tmp_path}", "no class in")
    voc(tmp_path, each=3)
    main = tmp_path / "VOCdevkit/VOC2007/ImageSets/Main"
    lines(main / "bee_val.txt", "000003 1", "000004 yes", "000005 -1")
    refused(f"voc2007:{tmp_path}", "has the mark 'yes', allowed are -1, 0, 1")
    lines(main / "bee_val.txt", "000003 1", "000005 -1")
    refused(f"voc2007:{tmp_path}", "has no mark for image 000004 of val")
    (main / "bee_val.txt").unlink()
    refused(f"voc2007:{tmp_path}", "no marks of class 'bee' for val")
    lines(main / "val.txt")
    refused(f"voc2007:{tmp_path}", "val.txt has nothing, allowed are lines of 1 columns")


def test_actions_that_do_not_fit(tmp_path: Path) -> None:
    actions(tmp_path)
    folder = tmp_path / "VOCdevkit/VOC2012/ImageSets/Action"
    for name in ("jumping_train", "reading_train"):
        text = (folder / f"{name}.txt").read_text()
        (folder / f"{name}.txt").write_text(text.replace("2010_000000 2", "2010_000000 3"))
    with pytest.raises(InputError, match="names object 3 of 2010_000000, allowed are 1 to 2"):
        open_collection(f"voc-action:{tmp_path}")
    (folder / "reading_train.txt").unlink()
    with pytest.raises(InputError, match=r"^data: no file .*reading_train.txt"):
        open_collection(f"voc-action:{tmp_path}")


def test_annotations_that_begin_at_0(tmp_path: Path) -> None:
    """Such a box begins with the image, not before it."""
    path = annotation(tmp_path / "a.xml", ("ant", (0, 0.4, 9, 9), 0), ("bee", (-1, 3, 9, 9), 0))
    assert [thing.box for thing in read_annotation(path)] == [(0, 0, 9, 9), (-2, 2, 9, 9)]


def test_annotations_that_are_none(tmp_path: Path) -> None:
    path = annotation(tmp_path / "a.xml", ("ant", (5, 5, 4, 9), 0))
    # (4, 4) to (4, 9): no column.
    with pytest.raises(InputError, match=r"got \(4, 4, 4, 9\) for object 1 of .*a.xml"):
        read_annotation(path)
    grow = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation></annotation>'
    for content in ("", "<annotation>", "<a><object><name>x</name></object></a>", grow):
        path.write_text(content)
        with pytest.raises(InputError, match=r"^boxes: cannot read .*a.xml"):
            read_annotation(path)
    with pytest.raises(InputError, match=r"^boxes: cannot read .*none.xml"):
        read_annotation(tmp_path / "none.xml")
