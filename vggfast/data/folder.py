"""Photographs in folders: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vggfast.data.decode import SUFFIXES
from vggfast.data.source import Files, Photographs
from vggfast.errors import InputError

PARTS = ("train", "val")


def find_folder(root: Path, parts: Sequence[str] = PARTS) -> Photographs:
    """The files of ``parts``; the classes are the folders in ``root``/train, sorted.

    ``root``/val must have the same classes. Where only "val" is asked for, ``root``/train may be
    missing.

    Raises:
        InputError: a folder or class is missing or empty, or the classes differ.
    """
    if not root.is_dir():
        raise InputError(
            f"data: no folder {root}; allowed are digits, mnist:DIR, fashion-mnist:DIR, "
            "imagenet:DIR, shards (*.tar), or a folder with train/CLASS/* and val/CLASS/*"
        )
    found = [p for p in PARTS if p in parts or (root / p).is_dir()]
    classes = class_folders(root / found[0])
    if len(found) == 2:
        check_same(classes, class_folders(root / "val"), f"{root}/train and {root}/val")
    sources = {part: Files(root, *class_files(root, part, classes)) for part in parts}
    return Photographs(sources.get("train"), sources.get("val"), classes)


def class_folders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in ``folder``, sorted. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"data: no folder {folder}; allowed is one with a folder for each class")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError(f"data: no class in {folder}; allowed is one folder or more")
    return tuple(names)


def check_same(classes: Sequence[str], other: Sequence[str], where: str) -> None:
    """Raises InputError, naming the first class that only one of the two has."""
    if odd := sorted(set(classes) ^ set(other)):
        raise InputError(
            f"data: {where} differ in class {odd[0]!r}; allowed are the same classes in both"
        )


def class_files(
    root: Path, part: str, classes: Sequence[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Files of ``root``/part/CLASS, sorted, relative to ``root``, and their class numbers.

    Raises InputError if a class has none.
    """
    files: list[str] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        folder = root / part / name
        # os.walk on strings: a million Path objects would cost seconds and memory.
        found = sorted(
            os.path.join(place, file)
            for place, _, names in os.walk(folder)
            for file in names
            if file.lower().endswith(SUFFIXES)
        )
        if not found:
            raise InputError(f"data: class {folder} is empty; allowed are {', '.join(SUFFIXES)}")
        files += (os.path.relpath(file, root).replace(os.sep, "/") for file in found)
        labels += [number] * len(found)
    return tuple(files), tuple(labels)
