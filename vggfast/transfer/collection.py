"""What features are made of: images, or boxes in them, with classes and parts, from ``--data``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vggfast.data.base import spread
from vggfast.data.decode import SUFFIXES
from vggfast.data.folder import PARTS
from vggfast.data.images import open_images
from vggfast.data.load import ALLOWED, parse_spec
from vggfast.data.source import Files
from vggfast.errors import InputError
from vggfast.transfer import caltech, voc
from vggfast.transfer.boxes import Boxes, read_boxes
from vggfast.transfer.pictures import Box, FromSets, FromSource, Pictures
from vggfast.transfer.records import Records

KINDS = ("voc2007", "voc2012", "voc-action", "caltech101", "caltech256", "images")
DATA = f"{', '.join(f'{kind}:DIR' for kind in KINDS)}, {ALLOWED}"


@dataclass(frozen=True)
class Collection:
    """Records, and the images that they are of.

    Attributes:
        kind: of data: one of ``KINDS``, or as :func:`vggfast.data.parse_spec` has it.
        pictures: the images.
        records: one for each feature vector.
        classes: names; empty where nothing is known of classes.
    """

    kind: str
    pictures: Pictures
    records: Records
    classes: tuple[str, ...]


def parse(data: str) -> tuple[str, str]:
    """(kind, place) of a ``--data`` argument. Raises InputError if it is none."""
    kind, _, place = data.partition(":")
    if kind not in KINDS:
        return parse_spec(data)
    if not place:
        raise InputError(f"data: got {data!r}, allowed is {kind}:DIR")
    return kind, place


def open_collection(
    data: str, *, parts: str = "all", boxes: str | None = None, limit: int | None = None
) -> Collection:
    """The images that ``data`` names, or the boxes in them.

    Args:
        data: "voc2007:DIR" and the like (docs/transfer.md has the layouts), "images:DIR" (files
            in DIR and below, without classes), or what :func:`vggfast.data.load` takes.
        parts: "all", or names with commas between, as "train,val".
        boxes: a file or folder of boxes (:mod:`vggfast.transfer.boxes`): then a record is a box.
        limit: this many images of each part, spread evenly.

    Raises:
        InputError: something is missing or cannot be read.
    """
    kind, place = parse(data)
    open_kind: dict[str, Callable[[Path], Collection]] = {
        "voc2007": lambda root: _voc(kind, voc.classification(root, "VOC2007")),
        "voc2012": lambda root: _voc(kind, voc.classification(root, "VOC2012")),
        "voc-action": lambda root: _voc(kind, voc.action(root)),
        "caltech101": lambda root: _caltech(kind, root),
        "caltech256": lambda root: _caltech(kind, root),
        "images": _images,
    }
    wanted = None if parts == "all" else [part.strip() for part in parts.split(",")]
    if kind in open_kind:
        root = Path(place).expanduser()
        if not root.is_dir():
            raise InputError(f"data: no folder {root}; allowed are {DATA}")
        found = open_kind[kind](root)
    else:
        found = _training_set(data, kind, wanted)
    # Boxes may be of images that are left out. Of the sets of training only the parts asked for are
    # opened, and what the others have is not known.
    known = None if wanted is not None and kind not in open_kind else set(found.records.names)
    found = _of_parts(found, wanted, limit)
    return found if boxes is None else _of_boxes(found, read_boxes(Path(boxes)), boxes, known)


def _training_set(data: str, kind: str, wanted: Sequence[str] | None) -> Collection:
    """A set that networks are trained on, with its parts."""
    names = [part for part in PARTS if wanted is None or part in wanted]
    if not names:
        raise InputError(f"part: got {','.join(wanted or ())!r}, allowed are all, train, val")
    sets = [open_images(data, part) for part in names]
    return Collection(
        kind,
        FromSets(sets),
        Records(
            image=np.arange(sum(map(len, sets))),
            names=tuple(images.name(i) for images in sets for i in range(len(images))),
            labels=np.concatenate([np.asarray(images.labels, np.int64) for images in sets]),
            parts=tuple(part for part, s in zip(names, sets, strict=True) for _ in range(len(s))),
        ),
        sets[0].classes,
    )


def _voc(kind: str, found: voc.Found) -> Collection:
    boxes = None if found.boxes is None else np.array(found.boxes, np.float64).reshape(-1, 4)
    records = Records(
        image=np.array(found.image, np.int64), names=tuple(found.names),
        labels=np.array(found.marks, np.int8).reshape(-1, len(found.classes)),
        parts=tuple(found.parts), boxes=boxes,
    )  # fmt: skip
    files = Files(found.root, tuple(found.files), (0,) * len(found.files))
    return Collection(kind, FromSource(files), records, found.classes)


def _caltech(kind: str, root: Path) -> Collection:
    files, classes = caltech.find(root, kind)
    return _of_files(kind, files, classes)


def _images(root: Path) -> Collection:
    found = sorted(
        os.path.relpath(os.path.join(place, file), root).replace(os.sep, "/")
        for place, _, names in os.walk(root)
        for file in names
        if file.lower().endswith(SUFFIXES)
    )
    if not found:
        raise InputError(f"data: no image in {root}; allowed are {', '.join(SUFFIXES)}")
    return _of_files("images", Files(root, found, (-1,) * len(found)), ())


def _of_files(kind: str, files: Files, classes: tuple[str, ...]) -> Collection:
    records = Records(
        image=np.arange(len(files.files)), names=tuple(files.files),
        labels=np.array(files.labels, np.int64), parts=("all",) * len(files.files),
    )  # fmt: skip
    return Collection(kind, FromSource(files), records, classes)


def _of_parts(found: Collection, wanted: Sequence[str] | None, limit: int | None) -> Collection:
    parts = found.records.parts
    known = tuple(dict.fromkeys(parts))
    for part in wanted or ():
        if part not in known:
            raise InputError(f"part: got {part!r}, allowed here are all, {', '.join(known)}")
    rows: list[int] = []
    for part in known:
        if wanted is None or part in wanted:
            mine = [i for i, p in enumerate(parts) if p == part]
            rows += [mine[i] for i in spread(len(mine), limit)]
    return replace(found, records=found.records.take(rows))


def _of_boxes(found: Collection, boxes: Boxes, path: str, known: set[str] | None) -> Collection:
    """A record for each box of each image; ``known``: names that boxes may be of, None: any."""
    records = found.records
    if records.boxes is not None:
        raise InputError(f"boxes: got {path!r} for {found.kind}, which has boxes of its own")
    rows: list[int] = []
    chosen: list[Box] = []
    used: dict[str, str] = {}
    for i, name in enumerate(records.names):
        key = boxes.key(name)
        if used.setdefault(key, name) != name:
            raise InputError(
                f"boxes: {path} has one annotation for {used[key]} and {name}, allowed are images "
                "whose names differ; a *.csv or *.json tells folders apart"
            )
        if key not in boxes.of:
            raise InputError(f"boxes: {path} has none for image {name}, allowed is one or more")
        rows += [i] * len(boxes.of[key])
        chosen += boxes.of[key]
    if boxes.only_these and known is not None and (odd := sorted(set(boxes.of) - known)):
        raise InputError(
            f"boxes: {path} has one for {odd[0]}, which is no image of the set; allowed are "
            f"names such as {records.names[0]}"
        )
    return replace(found, records=replace(records.take(rows), boxes=np.array(chosen, np.float64)))
