"""Boxes in images: read from CSV, JSON or Pascal VOC's annotations, and checked.

A box is (left, top, right, bottom) in pixels from the image's upper left corner; right and bottom
are the first that no longer belong to it, so its width is right - left. Annotations of VOC count
pixels from 1 and include both ends; they are converted.

| form | content |
|---|---|
| ``*.csv`` | columns image, left, top, right, bottom, named in the first line; others are ignored |
| ``*.json`` | a list of ``{"image": NAME, "box": [left, top, right, bottom]}`` |
| a folder | ``STEM.xml`` for an image ``.../STEM.jpg``; every object of it |

Names are those of the images in the set, relative to its root.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vggfast.data.pascal_xml import AnnotationError, entries, parse
from vggfast.errors import InputError
from vggfast.transfer.pictures import Box

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("image", "left", "top", "right", "bottom")
MOST_ELONGATED = 20  # rescaled, a longer box would take more memory than many an image set


@dataclass(frozen=True)
class Boxes:
    """Boxes by image: its name, or of annotations its file's stem.

    ``only_these``: an image that is not in the set is an error; a folder of annotations may have
    more than are asked for.
    """

    of: dict[str, list[Box]]
    stems: bool = False
    only_these: bool = True

    def key(self, name: str) -> str:
        return PurePosixPath(name).stem if self.stems else name


@dataclass(frozen=True)
class Thing:
    """An object of an annotation: its class, box, and whether it is marked as difficult."""

    name: str
    box: Box
    difficult: bool


def read_boxes(path: Path) -> Boxes:
    """Read boxes of any of the forms above.

    Raises:
        InputError: it is missing, something else, or a box is degenerate.
    """
    if path.is_dir():
        files = sorted(path.glob("*.xml"))
        if not files:
            raise InputError(f"boxes: no *.xml in {path}; allowed are VOC's annotations")
        found = {file.stem: [thing.box for thing in read_annotation(file)] for file in files}
        return Boxes(found, stems=True, only_these=False)
    if path.suffix not in (".csv", ".json") or not path.is_file():
        raise InputError(
            f"boxes: got {str(path)!r}, allowed are a file *.csv or *.json, or a folder of *.xml"
        )
    of: dict[str, list[Box]] = {}
    rows = _csv(path) if path.suffix == ".csv" else _json(path)
    for where, name, values in rows:
        of.setdefault(name, []).append(checked(values, where))
    if not of:
        raise InputError(f"boxes: {path} has none, allowed is one or more")
    return Boxes(of)


def read_annotation(path: Path) -> list[Thing]:
    """The objects of an annotation file of Pascal VOC, in its order.

    Raises:
        InputError: the file is missing or something else, or a box is degenerate.
    """
    try:
        found = list(entries(parse(path)))
    except AnnotationError as error:
        raise InputError(
            f"boxes: cannot read {path} ({error}); allowed is an annotation of Pascal VOC"
        ) from None
    things = []
    for number, entry in enumerate(found, 1):
        left, top, right, bottom = entry.ends
        left, top = (0.0 if 0 <= end < 1 else end - 1 for end in (left, top))
        box = checked((left, top, right, bottom), f"object {number} of {path}")
        things.append(Thing(entry.name, box, entry.difficult))
    return things


def checked(values: Iterable[Any], where: str) -> Box:
    """Four finite numbers with left < right and top < bottom.

    Raises:
        InputError: they are not; ``where`` names the box.
    """
    given = list(values)
    try:
        left, top, right, bottom = map(float, given)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"boxes: got {given!r:.100} for {where}, allowed are four numbers"
        ) from None
    box = (left, top, right, bottom)
    if not all(map(math.isfinite, box)) or not (left < right and top < bottom):
        raise InputError(
            f"boxes: got {_shown(box)} for {where}, allowed are left < right and top < bottom"
        )
    return box


def cut(image: Image, box: Box, name: str) -> Image:
    """The pixels of ``box``, its corners rounded to whole ones, of an image called ``name``.

    Raises:
        InputError: the box leaves the image, holds no pixel, or is too elongated to be rescaled.
    """
    left, top, right, bottom = box
    width, height = image.size
    if left < 0 or top < 0 or right > width or bottom > height:
        raise InputError(
            f"boxes: got {_shown(box)} for {name}, allowed are boxes inside its {width} x {height} "
            "pixels"
        )
    corners = (round(left), round(top), round(right), round(bottom))
    sides = (corners[2] - corners[0], corners[3] - corners[1])
    if min(sides) < 1 or max(sides) > MOST_ELONGATED * min(sides):
        raise InputError(
            f"boxes: got {_shown(box)} for {name}, allowed are sides of a pixel or more, the "
            f"longer up to {MOST_ELONGATED} times the shorter"
        )
    return image.crop(corners)


def _csv(path: Path) -> Iterable[tuple[str, str, list[Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    f"boxes: {path} has no column {missing[0]!r}, allowed are {', '.join(COLUMNS)}"
                )
            for row in reader:
                if not row["image"]:
                    raise InputError(
                        f"boxes: {path} names no image in line {reader.line_num}, allowed is one"
                    )
                where = f"{row['image']} in line {reader.line_num} of {path}"
                yield where, row["image"], [row[c] for c in COLUMNS[1:]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"boxes: cannot read {path} ({error}); allowed is a CSV file") from None


def _json(path: Path) -> Iterable[tuple[str, str, list[Any]]]:
    allowed = 'allowed is a list of {"image": NAME, "box": [left, top, right, bottom]}'
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"boxes: cannot read {path} ({error}); {allowed}") from None
    if not isinstance(entries, list):
        raise InputError(f"boxes: {path} holds a {type(entries).__name__}; {allowed}")
    for number, entry in enumerate(entries):
        fits = isinstance(entry, dict) and isinstance(entry.get("image"), str)
        if not fits or not isinstance(entry.get("box"), list):
            raise InputError(f"boxes: entry {number} of {path} is {entry!r:.80}; {allowed}")
        yield f"{entry['image']} in entry {number} of {path}", entry["image"], entry["box"]


def _shown(box: Box) -> str:
    return "(" + ", ".join(f"{v:g}" for v in box) + ")"
