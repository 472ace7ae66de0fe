"""WebDataset shards: tar archives in which a sample's files follow each other under one key.

A key is a member's name up to the first dot of its last part, the rest is the extension; a sample
is an image (``.jpg``, ``.jpeg``, ``.png``, …) and its class (``.cls``: a number or a name in text).
Other members are left alone. The archives are indexed once (:mod:`vggfast.data.tar_index`) and read
at random places, so shuffling is of all samples and any epoch or step can be begun anew.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vggfast.data import pattern
from vggfast.data.base import BadImageError
from vggfast.data.source import Photographs, Source, Subset
from vggfast.data.tar_index import Index, index_of
from vggfast.errors import InputError

HELD_OUT = 10  # without shards for validation every tenth sample is held out
MOST_CLASSES = 1_000_000


class Shards:
    """The samples of several archives, in their order."""

    def __init__(self, indexes: Sequence[Index], labels: Sequence[int]) -> None:
        self.labels = labels
        self._paths = [index.path for index in indexes]
        self._keys = [key for index in indexes for key in index.keys]
        self._shard = np.repeat(np.arange(len(indexes)), [len(index.keys) for index in indexes])
        self._offsets = np.concatenate([index.offsets for index in indexes])
        self._sizes = np.concatenate([index.sizes for index in indexes])

    def name(self, i: int) -> str:
        return f"{self._paths[self._shard[i]].name}:{self._keys[i]}"

    def place(self, i: int) -> str:
        return f"{self._paths[self._shard[i]]}:{self._keys[i]}"

    def read(self, i: int) -> bytes:
        # Opened each time: that is quick, keeps no thousand files open, and suits forked workers.
        try:
            with open(self._paths[self._shard[i]], "rb") as file:
                file.seek(self._offsets[i])
                raw = file.read(self._sizes[i])
        except OSError as error:
            raise BadImageError(
                f"data: cannot read image {self.place(i)} ({error.strerror})"
            ) from None
        if len(raw) < self._sizes[i]:
            raise BadImageError(f"data: cannot read image {self.place(i)} (the archive is cut off)")
        return raw


def find_shards(spec: str) -> Photographs:
    """The samples of ``spec``: TRAIN.tar or TRAIN.tar,VAL.tar, each a pattern.

    Without a pattern for validation every tenth sample of the first is held out for it. The classes
    are the numbers from 0 to the largest, or the names, sorted, in both together.

    Raises:
        InputError: an archive is missing or damaged, or a sample lacks its image or class.
    """
    training, validation = pattern.split(spec)
    train = _indexes(training)
    val = train if validation is None else _indexes(validation)
    texts = [text for index in (*train, *val) for text in index.classes]
    classes, numbers = _classes(texts, spec)
    sources: dict[str, Source] = {}
    for part, indexes in (("train", train), ("val", val)):
        labels = [numbers[text] for index in indexes for text in index.classes]
        sources[part] = Shards(indexes, labels)
    if validation is None:
        places = range(len(sources["train"].labels))
        held = [i for i in places if i % HELD_OUT == HELD_OUT - 1]
        kept = [i for i in places if i % HELD_OUT != HELD_OUT - 1]
        if not held:
            raise InputError(
                f"data: {spec} holds {len(places)} samples, allowed are TRAIN.tar,VAL.tar, or at "
                f"least {HELD_OUT}, of which every tenth is held out"
            )
        sources = {"train": Subset(sources["train"], kept), "val": Subset(sources["val"], held)}
    return Photographs(sources["train"], sources["val"], classes)


def _indexes(text: str) -> list[Index]:
    indexes = [index_of(Path(os.path.expanduser(name))) for name in pattern.expand(text)]
    if not any(len(index.keys) for index in indexes):
        raise InputError(f"data: no sample in {text}; allowed are pairs of KEY.jpg and KEY.cls")
    return indexes


def _classes(texts: Sequence[str], spec: str) -> tuple[tuple[str, ...], dict[str, int]]:
    distinct = sorted(set(texts))
    whole = [text.isdecimal() for text in distinct]
    if all(whole):
        numbers = {text: int(text) for text in distinct}
        count = max(numbers.values()) + 1
        if count > MOST_CLASSES:
            raise InputError(f"data: {spec} has class {count - 1}, allowed is below {MOST_CLASSES}")
        return tuple(map(str, range(count))), numbers
    if any(whole):
        raise InputError(
            f"data: {spec} has the classes {distinct[0]!r} and {distinct[-1]!r}; allowed are "
            "numbers, or names, for all samples"
        )
    return tuple(distinct), {text: i for i, text in enumerate(distinct)}
