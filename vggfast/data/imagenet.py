"""ILSVRC-2012 as its archives unpack.

DIR/train/WNID/*.JPEG, and of the validation images either DIR/val/WNID/*.JPEG or, as they come,
DIR/val/*.JPEG in one folder, with the development kit beside it for their classes:
DIR/ILSVRC2012_devkit_t12/data/meta.mat and ILSVRC2012_validation_ground_truth.txt.

Classes are WordNet's numbers (n01440764), sorted; this is not the order of the kit's own class
numbers, but the one of networks that others have trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vggfast.data.base import require
from vggfast.data.decode import SUFFIXES
from vggfast.data.folder import PARTS, check_same, class_files, class_folders, find_folder
from vggfast.data.source import Files, Photographs
from vggfast.errors import InputError

KIT = "ILSVRC2012_devkit_t12/data"
META = "meta.mat"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def find_imagenet(root: Path, parts: Sequence[str] = PARTS) -> Photographs:
    """The files of ``parts``.

    Raises:
        InputError: something is missing, or the parts or the kit do not fit each other.
    """
    if not root.is_dir():
        raise InputError(
            f"data: no folder {root}; allowed is one with ILSVRC-2012's train/ and val/"
        )
    val = root / "val"
    if not val.is_dir() or any(p.is_dir() for p in val.iterdir()):
        return find_folder(root, parts)
    numbers = read_classes(root / KIT / META)
    classes = tuple(sorted(numbers.values()))
    train = None
    if "train" in parts or (root / "train").is_dir():
        check_same(class_folders(root / "train"), classes, f"{root}/train and {root / KIT / META}")
    if "train" in parts:
        train = Files(root, *class_files(root, "train", classes))
    flat = _flat(root, numbers, classes) if "val" in parts else None
    return Photographs(train, flat, classes)


def read_classes(path: Path) -> dict[int, str]:
    """From the kit's class numbers, of the leaves of its tree, to WordNet's.

    Raises:
        InputError: the file is missing or is not the kit's.
    """
    io = require("scipy.io", "SciPy")
    try:
        with path.open("rb") as file:
            synsets = io.loadmat(file, squeeze_me=True)["synsets"]
        leaves = synsets[synsets["num_children"] == 0]
        return {int(s["ILSVRC2012_ID"]): str(s["WNID"]) for s in leaves}
    except FileNotFoundError:
        raise InputError(
            f"data: no file {path}; allowed are val/WNID/*.JPEG, or val/*.JPEG with the "
            "development kit, unpacked"
        ) from None
    # SciPy raises many things on a file that is no MATLAB file, or another one.
    except (OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"data: {path} is not the kit's ({reason}); allowed is that file"
        ) from None


def _flat(root: Path, numbers: dict[int, str], classes: Sequence[str]) -> Files:
    """The validation images that lie in one folder; line i of the truth is the i-th of them."""
    path = root / KIT / TRUTH
    files = sorted(p.name for p in (root / "val").iterdir() if p.name.lower().endswith(SUFFIXES))
    try:
        ids = [int(line) for line in path.read_text().split()]
    except (OSError, ValueError) as error:
        raise InputError(f"data: cannot read {path} ({error}); allowed is the kit's file") from None
    if len(ids) != len(files):
        raise InputError(
            f"data: {root / 'val'} holds {len(files)} images, {path} {len(ids)} classes; allowed "
            "is as many"
        )
    if odd := sorted(set(ids) - set(numbers)):
        raise InputError(f"data: {path} holds class {odd[0]}, which {META} has not")
    position = {wnid: i for i, wnid in enumerate(classes)}
    labels = tuple(position[numbers[i]] for i in ids)
    return Files(root, tuple(f"val/{name}" for name in files), labels)
