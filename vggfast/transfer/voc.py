"""Pascal VOC as its archives unpack: VOCdevkit/VOC2007 with ImageSets, JPEGImages, Annotations.

DIR may be VOCdevkit's parent, VOCdevkit, or the year's folder itself. An image has several classes:
a mark for each says whether an object of it is there (1), none (-1), or only such as are marked as
difficult (0), which the benchmark leaves out. Where a part comes without marks, as VOC-2012's test
part, they are all 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vggfast.errors import InputError
from vggfast.transfer.boxes import Thing, read_annotation
from vggfast.transfer.pictures import Box

PARTS = ("train", "val", "test")
OTHER = "other"


@dataclass
class Found:
    """What a reader found: files, and for each record its file, name, marks, part and box."""

    root: Path
    classes: tuple[str, ...]
    files: list[str] = field(default_factory=list)
    image: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    marks: list[Sequence[int]] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    boxes: list[Box] | None = None


def classification(root: Path, year: str) -> Found:
    """The images of ``year``'s classification task.

    Marks are those of ImageSets/Main/CLASS_PART.txt, or CLASS_trainval.txt, else they follow from
    the objects in Annotations/, else they are unknown.

    Raises:
        InputError: a folder or file is missing, or they do not fit each other.
    """
    home = _home(root, year, "Main")
    parts, classes = _parts_and_classes(home / "ImageSets/Main")
    found = Found(home, classes)
    for part in parts:
        ids = [line[0] for line in _lines(home / f"ImageSets/Main/{part}.txt", 1)]
        marks = _marks(home, part, classes, ids)
        for number, name in enumerate(ids):
            found.image.append(len(found.files))
            found.files.append(f"JPEGImages/{name}.jpg")
            found.marks.append([column[number] for column in marks])
        found.names += (f"JPEGImages/{name}.jpg" for name in ids)
        found.parts += [part] * len(ids)
    return found


def action(root: Path) -> Found:
    """The persons of VOC-2012's action task, each a box with a mark for each action.

    ImageSets/Action/CLASS_PART.txt lists images, numbers of objects in their annotations, from 1,
    and marks. A part without such files, as the test part, is what PART.txt lists. "other", which
    the benchmark leaves out, is no class.

    Raises:
        InputError: a folder or file is missing, or they do not fit each other.
    """
    home = _home(root, "VOC2012", "Action")
    folder = home / "ImageSets/Action"
    parts, names = _parts_and_classes(folder)
    classes = tuple(name for name in names if name != OTHER)
    found = Found(home, classes, boxes=[])
    numbers: dict[str, int] = {}
    assert found.boxes is not None
    for part in parts:
        named = [file for c in classes if (file := folder / f"{c}_{part}.txt").is_file()]
        source = named[0] if named else folder / f"{part}.txt"
        people = [(line[0], line[1]) for line in _lines(source, 2)]
        columns = [_action_marks(folder, part, name, people) for name in classes]
        things: dict[str, list[Thing]] = {}
        for row, (image, thing) in enumerate(people):
            if image not in numbers:
                numbers[image] = len(found.files)
                found.files.append(f"JPEGImages/{image}.jpg")
            if image not in things:
                things[image] = read_annotation(home / f"Annotations/{image}.xml")
            if not thing.isdecimal() or not 1 <= int(thing) <= len(things[image]):
                raise InputError(
                    f"data: {source} names object {thing} of {image}, allowed are 1 to "
                    f"{len(things[image])}"
                )
            found.image.append(numbers[image])
            found.names.append(f"JPEGImages/{image}.jpg")
            found.marks.append([column[row] for column in columns])
            found.boxes.append(things[image][int(thing) - 1].box)
        found.parts += [part] * len(people)
    return found


def _home(root: Path, year: str, task: str) -> Path:
    places = (root, root / year, root / "VOCdevkit" / year)
    home = next((place for place in places if (place / "ImageSets" / task).is_dir()), None)
    if home is None:
        raise InputError(
            f"data: no ImageSets/{task} in {root}, {root / year} or {root / 'VOCdevkit' / year}; "
            f"allowed is a folder with VOCdevkit/{year}"
        )
    return home


def _parts_and_classes(folder: Path) -> tuple[list[str], tuple[str, ...]]:
    parts = [part for part in PARTS if (folder / f"{part}.txt").is_file()]
    if not parts:
        raise InputError(f"data: none of train.txt, val.txt, test.txt in {folder}")
    names = [
        path.stem.removesuffix(f"_{part}")
        for part in (*parts, "trainval")
        for path in folder.glob(f"*_{part}.txt")
    ]
    if not names:
        raise InputError(f"data: no CLASS_train.txt or the like in {folder}; allowed is VOC's own")
    return parts, tuple(sorted(set(names)))


def _marks(home: Path, part: str, classes: Sequence[str], ids: Sequence[str]) -> list[list[int]]:
    """A column of marks for each class."""
    folder = home / "ImageSets/Main"
    own = [part, "trainval"] if part in ("train", "val") else [part]
    files = [
        next((p for s in own if (p := folder / f"{name}_{s}.txt").is_file()), None)
        for name in classes
    ]
    if any(files):
        return [_column(file, name, part, ids) for file, name in zip(files, classes, strict=True)]
    if not (home / "Annotations" / f"{ids[0]}.xml").is_file():
        return [[0] * len(ids)] * len(classes)
    things = [read_annotation(home / "Annotations" / f"{image}.xml") for image in ids]
    return [[_mark(found, name) for found in things] for name in classes]


def _column(file: Path | None, name: str, part: str, ids: Sequence[str]) -> list[int]:
    if file is None:
        raise InputError(f"data: no marks of class {name!r} for {part}, other classes have some")
    marks = {line[0]: _whole(line[1], file) for line in _lines(file, 2)}
    missing = next((image for image in ids if image not in marks), None)
    if missing is not None:
        raise InputError(f"data: {file} has no mark for image {missing} of {part}")
    return [marks[image] for image in ids]


def _mark(things: Sequence[Thing], name: str) -> int:
    difficult = [thing.difficult for thing in things if thing.name == name]
    if not difficult:
        return -1
    return 0 if all(difficult) else 1


def _action_marks(
    folder: Path, part: str, name: str, people: Sequence[tuple[str, str]]
) -> list[int]:
    file = folder / f"{name}_{part}.txt"
    if not file.is_file():
        if part == "test":
            return [0] * len(people)
        raise InputError(f"data: no file {file}, other actions have one")
    marks = {(line[0], line[1]): _whole(line[2], file) for line in _lines(file, 3)}
    missing = next((person for person in people if person not in marks), None)
    if missing is not None:
        raise InputError(f"data: {file} has no mark for object {missing[1]} of {missing[0]}")
    return [marks[person] for person in people]


def _lines(path: Path, columns: int) -> list[list[str]]:
    """The words of each line that is not empty, ``columns`` of them or more."""
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"data: cannot read {path} ({error})") from None
    found = [line for line in lines if line]
    short = next((line for line in found if len(line) < columns), None)
    if short is not None or not found:
        what = "nothing" if short is None else f"the line {' '.join(short)!r}"
        raise InputError(f"data: {path} has {what}, allowed are lines of {columns} columns")
    return found


def _whole(text: str, file: Path) -> int:
    if text not in ("-1", "0", "1", "+1"):
        raise InputError(f"data: {file} has the mark {text!r}, allowed are -1, 0, 1")
    return int(text)
