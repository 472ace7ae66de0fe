"""Data sets with boxes: ILSVRC CLS-LOC, Pascal VOC, and a table of boxes.

A sample is an image and one of the classes it shows, with the boxes of that class; so an image of
VOC with a dog and two people is two samples. Images without boxes are left out.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vggfast.data.base import BadImageError, spread
from vggfast.data.decode import SUFFIXES
from vggfast.data.folder import PARTS
from vggfast.data.source import Files
from vggfast.errors import InputError
from vggfast.localization.annotations import Box, Object, Size, read_annotation, wrong_box
from vggfast.localization.boxes import rescale

ALLOWED = "imagenet:DIR, voc:DIR or boxes:FILE.csv"
COLUMNS = ("image", "part", "class", "x1", "y1", "x2", "y2")
_VOC_FIRST, _ILSVRC_FIRST = 1, 0


class Boxes:
    """The boxes of N samples, in flat arrays, so that worker processes can have a million.

    Args:
        boxes: of each sample.
        sizes: (width, height) of the images that were annotated, if it is known.
    """

    def __init__(
        self, boxes: Sequence[Sequence[Box]], sizes: Sequence[Size | None] | None = None
    ) -> None:
        self._starts = np.cumsum([0, *map(len, boxes)])
        self._flat = np.array([box for of in boxes for box in of], np.float32).reshape(-1, 4)
        known = [size or (0, 0) for size in sizes or [None] * len(boxes)]
        self._sizes = np.array(known, np.int64).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, i: int) -> Tensor:
        """(B, 4), float32: of sample ``i``, in pixels of the image that was annotated."""
        return torch.from_numpy(self._flat[self._starts[i] : self._starts[i + 1]])

    def within(self, i: int, size: Size, place: str) -> Tensor:
        """(B, 4), float64: of sample ``i``, in pixels of its image as it is, of ``size``.

        Images are often rescaled after they were annotated; boxes are rescaled as they were.

        Raises:
            BadImageError: a box has no area or leaves the image, or the annotation is of an image
                of other proportions; ``place`` names the image.
        """
        boxes = self[i].double()
        width, height = self._sizes[i].tolist()
        annotated = (width, height) if width else size
        for x1, y1, x2, y2 in boxes.tolist():
            wrong = wrong_box((x1, y1, x2, y2), annotated)
            if wrong is not None:
                raise BadImageError(
                    f"data: the box {wrong} that {place} has; allowed are boxes inside the image"
                )
        # Rescaling rounds to whole pixels.
        if abs(size[0] * height - size[1] * width) > max(*size, *annotated):
            raise BadImageError(
                f"data: {place} has {size[0]} x {size[1]} pixels, its annotation is of "
                f"{width} x {height}; allowed are the same proportions"
            )
        return boxes if size == annotated else rescale(boxes, annotated, size)


@dataclass(frozen=True)
class Annotated:
    """Images with their class numbers (``source.labels``) and boxes."""

    source: Files
    boxes: Boxes
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)


def find(
    data: str,
    part: str,
    classes: Sequence[str],
    *,
    limit: int | None = None,
    complete: bool = False,
    checked: bool = True,
) -> Annotated:
    """The samples of a part of a data set.

    Args:
        data: "imagenet:DIR", "voc:DIR" or "boxes:FILE.csv" (docs/localization.md has the layouts).
        part: "train" or "val".
        classes: those of the network, in its order.
        limit: this many samples, spread evenly.
        complete: every class must have a sample, as for training.
        checked: refuse boxes that have no area or leave the image; else :meth:`Boxes.within` does.

    Raises:
        InputError: something is missing or cannot be read, a class is none of ``classes``, or,
            with ``complete``, has no sample.
    """
    if part not in PARTS:
        raise InputError(f"part: got {part!r}, allowed are {', '.join(PARTS)}")
    kind, _, place = data.partition(":")
    if kind not in _READERS or not place:
        raise InputError(f"data: got {data!r}, allowed are {ALLOWED}")
    root = Path(place) if kind != "boxes" else Path(place).parent
    number = {name: i for i, name in enumerate(classes)}
    files: list[str] = []
    labels: list[int] = []
    boxes: list[list[Box]] = []
    sizes: list[Size | None] = []
    for file, origin, size, objects in _READERS[kind](Path(place), part, checked):
        of: dict[str, list[Box]] = {}
        for found in objects:
            of.setdefault(found.name, []).append(found.box)
        for name, theirs in of.items():
            if name not in number:
                raise InputError(
                    f"data: {origin} has the class {name!r}, which the network has not; allowed "
                    f"are its {len(classes)}: {', '.join(classes[:5])}"
                    + (", ..." if len(classes) > 5 else "")
                )
            files.append(file)
            labels.append(number[name])
            boxes.append(theirs)
            sizes.append(size)
    if not files:
        raise InputError(f"data: no box in the part {part} of {data}; allowed is one or more")
    if complete and (empty := sorted(set(range(len(classes))) - set(labels))):
        raise InputError(
            f"data: class {classes[empty[0]]!r} has no box in the part {part} of {data}; allowed "
            "is one or more for each class of the network"
        )
    kept = spread(len(files), limit)
    source = Files(root, tuple(files[i] for i in kept), tuple(labels[i] for i in kept))
    found_boxes = Boxes([boxes[i] for i in kept], [sizes[i] for i in kept])
    return Annotated(source, found_boxes, tuple(classes))


# The image's name below the root, where its objects are from, its size if that is told, objects.
_Found = Iterator[tuple[str, str, Size | None, list[Object]]]


def _imagenet(root: Path, part: str, checked: bool) -> _Found:
    """DIR/Annotations/CLS-LOC/PART/**.xml; images in DIR/PART/** or DIR/Data/CLS-LOC/PART/**."""
    folder = root / "Annotations" / "CLS-LOC" / part
    if not folder.is_dir():
        raise InputError(
            f"data: no folder {folder}; allowed is ILSVRC's, with PART/ or Data/CLS-LOC/PART/ for "
            "the images"
        )
    data = Path("Data", "CLS-LOC", part)
    images = _by_stem(root, data if (root / data).is_dir() else Path(part))
    for name in _walk(folder, (".xml",)):
        stem = name[: -len(".xml")]
        image = images.get(stem) or images.get(os.path.basename(stem))
        if image is None:
            raise InputError(
                f"data: no image for {folder / name}; allowed is one of the same name, "
                f"{', '.join(SUFFIXES)}"
            )
        size, objects = read_annotation(folder / name, _ILSVRC_FIRST, checked=checked)
        yield image, str(folder / name), size, objects


def _voc(root: Path, part: str, checked: bool) -> _Found:
    """DIR/JPEGImages, DIR/Annotations, and the names of a part in DIR/ImageSets/Main/PART.txt."""
    listed = root / "ImageSets" / "Main" / f"{part}.txt"
    try:
        names = listed.read_text(encoding="utf-8").split()
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"data: cannot read {listed} ({error}); allowed is a folder such as VOC2007"
        ) from None
    for name in names:
        image, annotation = (
            root / "JPEGImages" / f"{name}.jpg",
            root / "Annotations" / f"{name}.xml",
        )
        if not image.is_file():
            raise InputError(f"data: no file {image}, which {listed} names; allowed is a whole set")
        size, objects = read_annotation(annotation, _VOC_FIRST, checked=checked)
        yield f"JPEGImages/{name}.jpg", str(annotation), size, objects


def _table(path: Path, part: str, checked: bool) -> _Found:
    """A CSV file with a line a box; images are named from its folder."""
    of: dict[str, tuple[str, list[Object]]] = {}
    allowed = f"allowed is CSV with the columns {','.join(COLUMNS)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel writes a mark
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise InputError(f"data: {path} has no such header; {allowed}")
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if row["part"] not in PARTS:
                    raise InputError(
                        f"data: {where} has part {row['part']!r}; allowed are train, val"
                    )
                if row["part"] != part:
                    continue
                found = _row(row, where, checked)
                of.setdefault(row["image"], (where, []))[1].append(found)
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"data: cannot read {path} ({error}); {allowed}") from None
    for image, (where, objects) in of.items():
        if not (path.parent / image).is_file():
            raise InputError(f"data: no file {path.parent / image}, which {where} names")
        yield image, where, None, objects


def _row(row: dict[str, str], where: str, checked: bool) -> Object:
    try:
        x1, y1, x2, y2 = (float(row[end]) for end in COLUMNS[3:])
    except (TypeError, ValueError):
        raise InputError(
            f"data: {where} lacks a number in x1, y1, x2, y2; allowed are four"
        ) from None
    # The image's size shows when it is read.
    wrong = wrong_box((x1, y1, x2, y2), None) if checked else None
    if wrong is not None or not row["class"]:
        what = "no class" if not row["class"] else f"the box {wrong}"
        raise InputError(f"data: {where} has {what}; allowed are a class and a box in the image")
    return Object(row["class"], (x1, y1, x2, y2))


_READERS = {"imagenet": _imagenet, "voc": _voc, "boxes": _table}


def _by_stem(root: Path, folder: Path) -> dict[str, str]:
    """Images below root/folder, relative to ``root``: by their path in ``folder`` without suffix,
    and by their name alone where only one has it."""
    images: dict[str, str] = {}
    alone: dict[str, str | None] = {}
    for name in _walk(root / folder, SUFFIXES):
        stem = os.path.splitext(name)[0]
        images[stem] = (folder / name).as_posix()
        short = os.path.basename(stem)
        alone[short] = None if short in alone else images[stem]
    return {k: v for k, v in alone.items() if v is not None} | images


def _walk(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files below ``folder`` with one of the suffixes, sorted, relative to it, with slashes."""
    return sorted(
        os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(suffixes)
    )
