"""The XML that ILSVRC and Pascal VOC tell an image's objects with.

Read with expat, which resolves no external entities; a document type declaration, in which
entities that grow without bound are made, is refused before any of it is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from vggfast.errors import InputError

MOST_BYTES = 4 << 20  # an annotation has a few KB
ENDS = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Object:
    """One object: the name of its class and its box (x1, y1, x2, y2), in pixels (boxes.py)."""

    name: str
    box: Box


def read_annotation(path: Path, first: int) -> tuple[tuple[int, int], list[Object]]:
    """Size (width, height) of the image, and its objects, in order; VOC's difficult ones are not.

    Args:
        path: the XML file.
        first: what the file calls the first pixel of a row. VOC counts from 1 and means the last
            pixel by ``xmax``; ILSVRC's files count from 0, and ``xmax`` may equal the width.

    Raises:
        InputError: the file cannot be read or is no annotation, or a box is missing, has no area or
            leaves the image.
    """
    root = _parse(path)
    if root.tag != "annotation":
        raise _bad(path, f"its root is <{root.tag[:40]}>, not <annotation>")
    size = int(_number(path, root, "size/width")), int(_number(path, root, "size/height"))
    if min(size) < 1:
        raise _bad(path, f"the size of its image is {size[0]} x {size[1]}")
    objects = []
    for number, item in enumerate(root.iter("object"), 1):
        if (item.findtext("difficult") or "0").strip() == "1":
            continue
        name = (item.findtext("name") or "").strip()
        if not name:
            raise _bad(path, f"object {number} has no name")
        x1, y1, x2, y2 = (_number(path, item, f"bndbox/{end}", number) for end in ENDS)
        box = (x1 - first, y1 - first, x2, y2)
        wrong = wrong_box(box, size)
        if wrong is not None:
            raise _bad(path, f"the box of object {number}, {name}, {wrong}")
        objects.append(Object(name, box))
    return size, objects


def wrong_box(box: Box, size: tuple[int, int]) -> str | None:
    """What is wrong with ``box`` in an image of ``size`` = (width, height); None: nothing."""
    x1, y1, x2, y2 = box
    text = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        return f"{text} as x1, y1, x2, y2, has no area"
    if x1 < 0 or y1 < 0 or x2 > size[0] or y2 > size[1]:
        return f"{text} as x1, y1, x2, y2, leaves the image of {size[0]} x {size[1]}"
    return None


def _parse(path: Path) -> Element:
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data

    def refuse(*_: object) -> None:
        raise _bad(path, "it has a document type declaration")

    parser.StartDoctypeDeclHandler = refuse
    try:
        if path.stat().st_size > MOST_BYTES:
            raise _bad(path, f"it has more than {MOST_BYTES >> 20} MB")
        parser.Parse(path.read_bytes(), True)
        root: Element = builder.close()
        return root
    except OSError as error:
        raise _bad(path, str(error.strerror)) from None
    except (expat.ExpatError, AssertionError, UnicodeError) as error:
        raise _bad(path, f"it is no whole XML: {error}") from None


def _number(path: Path, item: Element, tag: str, number: int | None = None) -> float:
    text = item.findtext(tag)
    where = "" if number is None else f" of object {number}"
    if text is None:
        raise _bad(path, f"{tag.replace('/', ' / ')}{where} is missing")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _bad(path, f"{tag.replace('/', ' / ')}{where} is {text.strip()[:40]!r}")
    return value


def _bad(path: Path, what: str) -> InputError:
    return InputError(
        f"data: cannot use {path} ({what}); allowed are annotations of ILSVRC or Pascal VOC with "
        "boxes inside the image"
    )
