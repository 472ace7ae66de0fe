"""The objects of ILSVRC's and Pascal VOC's annotations, as boxes of this package (boxes.py)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from vggfast.data.pascal_xml import AnnotationError, entries, image_size, parse
from vggfast.errors import InputError

Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Object:
    """One object: the name of its class and its box (x1, y1, x2, y2), in pixels (boxes.py)."""

    name: str
    box: Box


def read_annotation(path: Path, first: int, *, checked: bool = True) -> tuple[Size, list[Object]]:
    """Size (width, height) of the image, and its objects, in order; VOC's difficult ones are not.

    Args:
        path: the XML file.
        first: what the file calls the first pixel of a row. VOC counts from 1 and means the last
            pixel by ``xmax``; ILSVRC's files count from 0, and ``xmax`` may equal the width.
        checked: refuse boxes that have no area or leave the image.

    Raises:
        InputError: the file cannot be read or is no annotation, or a box is missing or wrong.
    """
    try:
        root = parse(path)
        size = image_size(root)
        objects = []
        for number, entry in enumerate(entries(root), 1):
            if entry.difficult:
                continue
            x1, y1, x2, y2 = entry.ends
            box = (x1 - first, y1 - first, x2, y2)
            wrong = wrong_box(box, size) if checked else None
            if wrong is not None:
                raise AnnotationError(f"the box of object {number}, {entry.name}, {wrong}")
            objects.append(Object(entry.name, box))
    except AnnotationError as error:
        raise InputError(
            f"data: cannot use {path} ({error}); allowed are annotations of ILSVRC or Pascal VOC "
            "with boxes inside the image"
        ) from None
    return size, objects


def wrong_box(box: Box, size: Size | None) -> str | None:
    """What is wrong with ``box`` in an image of ``size`` = (width, height), or of a size that is
    not known yet; None: nothing."""
    x1, y1, x2, y2 = box
    text = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not all(map(math.isfinite, box)) or x2 <= x1 or y2 <= y1:
        return f"{text} as x1, y1, x2, y2, has no area"
    if x1 < 0 or y1 < 0 or (size is not None and (x2 > size[0] or y2 > size[1])):
        of = "" if size is None else f" of {size[0]} x {size[1]}"
        return f"{text} as x1, y1, x2, y2, leaves the image{of}"
    return None
