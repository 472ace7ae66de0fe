"""Caltech-101 and Caltech-256 as their archives unpack.

DIR/101_ObjectCategories/CLASS/image_0001.jpg, DIR/256_ObjectCategories/001.ak47/001_0001.jpg; DIR
may be that folder itself. All folders are classes, those of the background too
(BACKGROUND_Google, 257.clutter): the paper counts 102 and 257 classes.
"""

from __future__ import annotations

from pathlib import Path

from vggfast.data.folder import class_files, class_folders
from vggfast.data.source import Files

FOLDERS = {
    "caltech101": ("101_ObjectCategories", "caltech-101/101_ObjectCategories"),
    "caltech256": ("256_ObjectCategories",),
}


def find(root: Path, kind: str) -> tuple[Files, tuple[str, ...]]:
    """The files of a set and its classes, which are the folders' names, sorted.

    Raises:
        InputError: there are none, or a class is empty.
    """
    place = next((root / name for name in FOLDERS[kind] if (root / name).is_dir()), root)
    classes = class_folders(place)
    return Files(place, *class_files(place, "", classes)), classes
