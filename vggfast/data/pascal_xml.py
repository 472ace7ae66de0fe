"""The XML that Pascal VOC and ILSVRC tell an image's objects with, as it is written.

What its numbers mean (from which number pixels count, which boxes are allowed) is for the readers
of data sets to say. Read with expat, which resolves no external entities; a document type
declaration, in which entities that grow without bound are made, is refused before any of it is
used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MOST_BYTES = 4 << 20  # an annotation has a few KB
ENDS = ("xmin", "ymin", "xmax", "ymax")


class AnnotationError(ValueError):
    """What is wrong with an annotation, in one line without the file's name."""


@dataclass(frozen=True)
class Entry:
    """One object: its class, xmin, ymin, xmax, ymax as the file has them, and VOC's mark."""

    name: str
    ends: tuple[float, float, float, float]
    difficult: bool


def parse(path: Path) -> Element:
    """The root of an annotation.

    Raises:
        AnnotationError: the file cannot be read, is too large, or is no XML of <annotation>.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        if path.stat().st_size > MOST_BYTES:
            raise AnnotationError(f"it has more than {MOST_BYTES >> 20} MB")
        parser.Parse(path.read_bytes(), True)
        root: Element = builder.close()
    except OSError as error:
        raise AnnotationError(str(error.strerror)) from None
    except AnnotationError:
        raise
    except (expat.ExpatError, AssertionError, ValueError, LookupError) as error:
        raise AnnotationError(f"it is no whole XML: {error}") from None
    if root.tag != "annotation":
        raise AnnotationError(f"its root is <{root.tag[:40]}>, not <annotation>")
    return root


def image_size(root: Element) -> tuple[int, int]:
    """(width, height) of the image that was annotated. Raises AnnotationError."""
    size = int(_number(root, "size/width")), int(_number(root, "size/height"))
    if min(size) < 1:
        raise AnnotationError(f"the size of its image is {size[0]} x {size[1]}")
    return size


def entries(root: Element) -> Iterator[Entry]:
    """The objects, in the file's order. Raises AnnotationError; objects count from 1."""
    for number, item in enumerate(root.iter("object"), 1):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise AnnotationError(f"object {number} has no name")
        x1, y1, x2, y2 = (_number(item, f"bndbox/{end}", number) for end in ENDS)
        difficult = (item.findtext("difficult") or "0").strip() == "1"
        yield Entry(name, (x1, y1, x2, y2), difficult)


def _refuse(*_: object) -> None:
    raise AnnotationError("it has a document type declaration")


def _number(item: Element, tag: str, number: int | None = None) -> float:
    text = item.findtext(tag)
    what = tag.replace("/", " / ") + ("" if number is None else f" of object {number}")
    if text is None:
        raise AnnotationError(f"{what} is missing")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{what} is {text.strip()[:40]!r}")
    return value
