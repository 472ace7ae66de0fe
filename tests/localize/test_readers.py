"""Annotations and the layouts of data sets, and all that may be wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from vggfast.data.base import BadImageError
from vggfast.errors import InputError
from vggfast.localization.annotations import read_annotation
from vggfast.localization.readers import Annotated, find

NAMES = ("cat", "dog")


def xml(*objects: str, size: tuple[object, object] = (40, 30)) -> str:
    width, height = size
    return (
        f"<annotation><filename>a</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(objects)}</annotation>"
    )


def thing(name: str, *ends: object, more: str = "") -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), ends, strict=False)
    box = "".join(f"<{tag}>{end}</{tag}>" for tag, end in tags)
    return f"<object><name>{name}</name>{more}<bndbox>{box}</bndbox></object>"


def picture(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Three images; the second has a dog and two cats, the third nothing but a difficult one."""
    root = tmp_path / "VOC2007"
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "Annotations").mkdir()
    objects = {
        "000001": [thing("dog", 1, 1, 40, 30)],
        "000002": [
            thing("cat", 2, 3, 4, 5), thing("dog", 1, 2, 10, 20), thing("cat", 9, 9, 19, 29),
        ],
        "000003": [thing("dog", 1, 1, 5, 5, more="<difficult>1</difficult>")],
    }  # fmt: skip
    for name, things in objects.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(xml(*things))
    (root / "ImageSets" / "Main" / "train.txt").write_text("000001\n000002\n000003\n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("000001\n")
    return root


def samples(data: Annotated) -> list[tuple[str, str, list[list[float]]]]:
    return [
        (data.source.name(i), data.classes[data.source.labels[i]], data.boxes[i].tolist())
        for i in range(len(data))
    ]


def test_voc(voc: Path) -> None:
    """It counts pixels from 1 and names the last one; a sample is an image and a class."""
    found = samples(find(f"voc:{voc}", "train", NAMES, complete=True))
    assert found == [
        ("JPEGImages/000001.jpg", "dog", [[0, 0, 40, 30]]),
        ("JPEGImages/000002.jpg", "cat", [[1, 2, 4, 5], [8, 8, 19, 29]]),
        ("JPEGImages/000002.jpg", "dog", [[0, 1, 10, 20]]),
    ]
    assert len(find(f"voc:{voc}", "val", NAMES)) == 1
    assert len(find(f"voc:{voc}", "train", NAMES, limit=2)) == 2


@pytest.mark.parametrize("data", ["", "Data/CLS-LOC"])
@pytest.mark.parametrize("flat", [True, False])
def test_imagenet(tmp_path: Path, data: str, flat: bool) -> None:
    """As unpacked or as on Kaggle; validation images in one folder or by class."""
    marks = tmp_path / "Annotations" / "CLS-LOC"
    images = tmp_path / data
    for part, stem, name in (
        ("train", "n01/n01_1", "n01"), ("train", "n02/n02_7", "n02"),
        ("val", "ILSVRC2012_val_00000001", "n02"),
    ):  # fmt: skip
        where = stem if part == "train" or flat else f"{name}/{stem}"
        picture(images / part / f"{where}.JPEG")
        (marks / part / stem).parent.mkdir(parents=True, exist_ok=True)
        (marks / part / f"{stem}.xml").write_text(xml(thing(name, 0, 2, 40, 30)))
    picture(images / "train" / "n01" / "n01_2.JPEG")  # not annotated, as most of ILSVRC
    classes = ("n01", "n02")
    train = samples(find(f"imagenet:{tmp_path}", "train", classes, complete=True))
    prefix = f"{data}/" if data else ""
    box = [[0, 2, 40, 30]]
    assert train == [
        (f"{prefix}train/n01/n01_1.JPEG", "n01", box),
        (f"{prefix}train/n02/n02_7.JPEG", "n02", box),
    ]
    between = "" if flat else "n02/"
    (val,) = samples(find(f"imagenet:{tmp_path}", "val", classes))
    assert val == (f"{prefix}val/{between}ILSVRC2012_val_00000001.JPEG", "n02", box)
    shutil.rmtree(images / "val")
    with pytest.raises(InputError, match=r"no image for .*ILSVRC2012_val_00000001\.xml"):
        find(f"imagenet:{tmp_path}", "val", classes)


def test_table(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    table = tmp_path / "boxes.csv"
    head = "image,part,class,x1,y1,x2,y2\n"
    table.write_text(
        f"{head}in/a.png,train,cat,0,0,10,10.5\nin/a.png,val,dog,1,1,2,2\n"
        "in/a.png,train,cat,5,5,40,30\n"
    )
    found = samples(find(f"boxes:{table}", "train", NAMES))
    assert found == [("in/a.png", "cat", [[0, 0, 10, 10.5], [5, 5, 40, 30]])]
    table.write_text(table.read_text(), encoding="utf-8-sig")  # as Excel does
    assert samples(find(f"boxes:{table}", "train", NAMES)) == found
    for text, words in (
        ("image,x1\n", "no such header"),
        (f"{head}in/a.png,train,cat,0,0,ten,10\n", "line 2 lacks a number"),
        (f"{head}in/a.png,train,cat,0,0,10\n", "line 2 lacks a number"),
        (f"{head}in/a.png,train,cat,5,0,5,10\n", r"line 2 has the box \(5, 0, 5, 10\) .* no area"),
        (f"{head}in/a.png,train,cat,-1,0,5,10\n", r"\(-1, 0, 5, 10\) .* leaves the image; allowed"),
        (f"{head}in/a.png,train,,0,0,10,10\n", "line 2 has no class"),
        (f"{head}in/a.png,test,cat,0,0,10,10\n", "line 2 has part 'test'"),
        (f"{head}in/b.png,train,cat,0,0,10,10\n", "no file .*b.png"),
        (f"{head}in/a.png,val,cat,0,0,10,10\n", "no box in the part train"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=words):
            find(f"boxes:{table}", "train", NAMES)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"cannot read .*boxes\.csv"):
        find(f"boxes:{table}", "train", NAMES)


BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no whole XML"),
        (xml(thing("dog", 1, 1, 5, 5))[:-9], "no whole XML"),
        ("<html></html>", "root is <html>"),
        (BOMB + xml(thing("&c;", 1, 1, 5, 5)), "document type declaration"),
        (xml(thing("dog", 1, 1, 5)), "bndbox / ymax of object 1 is missing"),
        (xml("<object><name>dog</name></object>"), "bndbox / xmin of object 1 is missing"),
        (xml(thing("dog", 1, 1, "five", 5)), "xmax of object 1 is 'five'"),
        (xml(thing("dog", 1, 1, "nan", 5)), "xmax of object 1 is 'nan'"),
        (xml(thing("", 1, 1, 5, 5)), "object 1 has no name"),
        (xml(thing("cat", 1, 1, 5, 5), thing("dog", 9, 1, 8, 5)), "object 2, dog, .*no area"),
        (xml(thing("dog", 1, 1, 41, 5)), r"\(0, 0, 41, 5\).* leaves the image of 40 x 30"),
        (xml(thing("dog", 0, 1, 5, 5)), "leaves the image"),
        (xml(thing("dog", 1, 1, 5, 5), size=(0, 30)), "size of its image is 0 x 30"),
        (xml(thing("dog", 1, 1, 5, 5), size=("", 30)), "size / width is ''"),
        ("<annotation></annotation>", "size / width is missing"),
    ],
)
def test_bad_annotations_name_the_file(voc: Path, text: str, words: str) -> None:
    bad = voc / "Annotations" / "000002.xml"
    for encoding in ("utf-8", "utf-16"):
        bad.write_text(text, encoding=encoding)
        with pytest.raises(InputError, match=f"000002\\.xml \\(.*{words}") as caught:
            find(f"voc:{voc}", "train", NAMES)
        assert "\n" not in str(caught.value)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    """An annotation that would grow to gigabytes, and one that reads another file."""
    names = [chr(97 + i) for i in range(20)]
    pairs = zip(names[1:], names, strict=False)
    grow = "".join(f'<!ENTITY {n} "{f"&{m};" * 10}">' for n, m in pairs)
    outside = f'<!ENTITY f SYSTEM "file://{tmp_path}/secret">'
    (tmp_path / "secret").write_text("secret")
    for entities, name in ((f'<!ENTITY a "ha">{grow}', "&t;"), (outside, "&f;")):
        path = tmp_path / "a.xml"
        path.write_text(f"<!DOCTYPE x [{entities}]>" + xml(thing(name, 1, 1, 5, 5)))
        with pytest.raises(InputError, match="document type declaration"):
            read_annotation(path, 1)


def test_large_and_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    with pytest.raises(InputError, match=r"a\.xml \(No such file"):
        read_annotation(path, 1)
    path.write_text(xml() + " " * (4 << 20))
    with pytest.raises(InputError, match="more than 4 MB"):
        read_annotation(path, 1)


def test_classes_of_data_and_network(voc: Path) -> None:
    with pytest.raises(InputError, match=r"000002\.xml has the class 'cat', which the network"):
        find(f"voc:{voc}", "train", ("dog", "bird"))
    with pytest.raises(InputError, match="class 'bird' has no box in the part train"):
        find(f"voc:{voc}", "train", (*NAMES, "bird"), complete=True)
    assert len(find(f"voc:{voc}", "train", (*NAMES, "bird"))) == 3


def test_other_data(voc: Path, tmp_path: Path) -> None:
    for data, words in (
        ("digits", "got 'digits', allowed are imagenet:DIR, voc:DIR"),
        ("voc:", "allowed are imagenet:DIR"),
        (f"voc:{tmp_path / 'gone'}", r"cannot read .*gone.*train\.txt"),
        (f"imagenet:{tmp_path}", "no folder .*CLS-LOC"),
        (f"boxes:{tmp_path / 'gone.csv'}", r"cannot read .*gone\.csv"),
    ):
        with pytest.raises(InputError, match=words):
            find(data, "train", NAMES)
    with pytest.raises(InputError, match="part: got 'test'"):
        find(f"voc:{voc}", "test", NAMES)
    (voc / "JPEGImages" / "000001.jpg").unlink()
    with pytest.raises(InputError, match=r"no file .*000001\.jpg"):
        find(f"voc:{voc}", "train", NAMES)


def test_wrong_boxes_may_wait_until_their_image_is_read(voc: Path, tmp_path: Path) -> None:
    """As ILSVRC's own annotations have some: outside the image, or with ends in the wrong order."""
    bad = voc / "Annotations" / "000001.xml"
    picture(tmp_path / "a.png")
    table = tmp_path / "boxes.csv"
    for ends, words in (((1, 1, 41, 30), "leaves the image"), ((9, 1, 5, 30), "has no area")):
        bad.write_text(xml(thing("dog", *ends)))
        table.write_text(
            f"image,part,class,x1,y1,x2,y2\na.png,train,dog,{ends[0] - 1},0,{ends[2]},30\n"
        )
        for data in (f"voc:{voc}", f"boxes:{table}"):
            found = find(data, "train", NAMES, checked=False)
            with pytest.raises(BadImageError, match=words):
                found.boxes.within(0, (40, 30), "a.jpg")
    bad.write_text("<annotation>")
    with pytest.raises(InputError, match="no whole XML"):
        find(f"voc:{voc}", "train", NAMES, checked=False)


def test_annotations_tell_the_size_of_their_image(voc: Path) -> None:
    """Of VOC and ILSVRC; a table knows none, and its boxes are of the image as it is."""
    found = find(f"voc:{voc}", "val", NAMES)
    assert found.boxes.within(0, (20, 15), "a.jpg").tolist() == [[0, 0, 20, 15]]
    with pytest.raises(BadImageError, match="same proportions"):
        found.boxes.within(0, (15, 20), "a.jpg")
