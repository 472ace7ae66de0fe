"""From the ``--data`` argument to a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vggfast.data.base import DataSet
from vggfast.data.colour import check_rgb_shift
from vggfast.data.digits import load_digits
from vggfast.data.folder import PARTS, find_folder
from vggfast.data.idx import CLASSES, load_idx
from vggfast.data.imagenet import find_imagenet
from vggfast.data.pattern import is_shards
from vggfast.data.photos import ON_BAD_IMAGE, from_photographs
from vggfast.data.shards import find_shards
from vggfast.data.source import Photographs
from vggfast.errors import InputError

PHOTOGRAPHS = ("folder", "imagenet", "shards")  # kinds that the paper's recipe is for
ALLOWED = (
    "digits, mnist:DIR, fashion-mnist:DIR, imagenet:DIR, shards (TRAIN.tar,VAL.tar) or a folder"
)


def parse_spec(data: str) -> tuple[str, str]:
    """(kind, place) of a ``--data`` argument.

    The kind is digits, mnist, fashion-mnist, imagenet, shards or folder.
    """
    kind, colon, place = data.partition(":")
    if data == "digits":
        return "digits", ""
    if kind in CLASSES or kind == "imagenet":
        if not place:
            what = "the IDX files" if kind in CLASSES else "train/ and val/"
            raise InputError(f"data: got {data!r}, allowed is {kind}:DIR with {what} in DIR")
        return kind, place
    if not data or (colon and kind == "digits"):
        raise InputError(f"data: got {data!r}, allowed are {ALLOWED}")
    if is_shards(data) and not Path(data).is_dir():
        return "shards", data
    return "folder", data


def find_photographs(kind: str, place: str, parts: Sequence[str] = PARTS) -> Photographs:
    """The photographs of a spec that :func:`parse_spec` has taken apart."""
    if kind == "shards":
        return find_shards(place)
    return (find_imagenet if kind == "imagenet" else find_folder)(Path(place), parts)


def load(
    data: str,
    *,
    size: int,
    scale: tuple[int, int],
    flip: bool | None = None,
    limit: int | None = None,
    rgb_shift: str = "none",
    on_bad_image: str = "fail",
    workers: int = 0,
) -> DataSet:
    """Load what ``data`` names.

    Args:
        data: "digits", "mnist:DIR", "fashion-mnist:DIR", or photographs: an image folder,
            "imagenet:DIR" or shards (docs/data.md has the layouts).
        size: side of the square images the network sees.
        scale: (S_min, S_max), to which a photograph's shorter side is rescaled; unused by others.
        flip: mirror training images with probability 1/2; None: yes, but not digits (mirrored,
            they are no digits).
        limit: train on this many images, spread evenly over the training set.
        rgb_shift: shift the colours of training photographs along the principal components of the
            training set's ("train") or of ILSVRC-2012's ("imagenet") colours, or not ("none").
        on_bad_image: what a photograph that cannot be read does: "fail" ends the run, "skip"
            replaces it by the next one in training and leaves it out of validation.
        workers: processes that read the photographs from which the colours' mean is taken.

    Raises:
        InputError: something is missing or cannot be read.
    """
    kind, place = parse_spec(data)
    check_rgb_shift(rgb_shift)
    if on_bad_image not in ON_BAD_IMAGE:
        raise InputError(
            f"on_bad_image: got {on_bad_image!r}, allowed are {', '.join(ON_BAD_IMAGE)}"
        )
    if flip is None:
        flip = kind == "fashion-mnist" or kind in PHOTOGRAPHS
    if kind in PHOTOGRAPHS:
        return from_photographs(
            find_photographs(kind, place), size=size, scale=scale, flip=flip, limit=limit,
            rgb_shift=rgb_shift, on_bad_image=on_bad_image, workers=workers,
        )  # fmt: skip
    if rgb_shift != "none":
        raise InputError(f"rgb_shift: got {rgb_shift!r} for {data!r}, allowed is none: it is grey")
    if kind == "digits":
        return load_digits(size=size, flip=flip, limit=limit)
    return load_idx(kind, Path(place), size=size, flip=flip, limit=limit)
