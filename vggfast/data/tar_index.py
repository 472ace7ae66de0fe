"""Where in a tar archive each sample's image lies, kept for the next run.

Reading a large archive's headers takes a while, so its index is kept in the cache folder
(``VGGFAST_CACHE``, else the platform's place) and made anew when the archive has changed.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vggfast.data.decode import SUFFIXES
from vggfast.errors import InputError
from vggfast.kernels.table_file import user_path

LONGEST_CLASS = 1000  # bytes of a .cls member
CLS = ".cls"


@dataclass(frozen=True)
class Index:
    """An archive's samples: keys, class texts, and offsets and sizes of their images in bytes."""

    path: Path
    keys: list[str]
    classes: list[str]
    offsets: np.ndarray
    sizes: np.ndarray


def index_of(path: Path) -> Index:
    """The index of an archive, from the cache where it is there.

    Raises:
        InputError: the archive is missing or damaged, or a sample lacks its image or class.
    """
    try:
        state = path.stat()
        kept = _cached(path, state)
        index = _load(path, kept)
        if index is None:
            index = _scan(path)
            _store(index, kept)
        return index
    except FileNotFoundError:
        raise InputError(f"data: no shard {path}; allowed are tar archives that exist") from None
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"data: cannot read shard {path} ({error}); allowed is a whole tar archive"
        ) from None


def _scan(path: Path) -> Index:
    keys, classes, offsets, sizes = [], [], [], []
    with open(path, "rb") as file:
        for key, members in _samples(path):
            images = [m for suffix, m in members.items() if suffix in SUFFIXES]
            if not images and CLS not in members:
                continue  # of another kind
            if len(images) != 1 or CLS not in members:
                raise InputError(
                    f"data: sample {key} of shard {path} has {', '.join(sorted(members))}; allowed "
                    f"are one image and {CLS}"
                )
            file.seek(members[CLS].offset_data)
            text = file.read(min(members[CLS].size, LONGEST_CLASS)).decode(errors="replace").strip()
            if not text:
                raise InputError(f"data: sample {key} of shard {path} has an empty {CLS}")
            keys.append(key)
            classes.append(text)
            offsets.append(images[0].offset_data)
            sizes.append(images[0].size)
    return Index(path, keys, classes, np.array(offsets, np.int64), np.array(sizes, np.int64))


def _samples(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """(key, members by extension) of each run of members with one key."""
    last, members = "", dict[str, tarfile.TarInfo]()
    with tarfile.open(path, "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or it keeps every header
            if not member.isreg():
                continue
            folder, _, file = member.name.rpartition("/")
            stem, dot, extension = file.partition(".")
            key, suffix = (f"{folder}/{stem}" if folder else stem), (dot + extension).lower()
            if key != last and members:
                yield last, members
                members = {}
            if suffix in members:
                raise InputError(f"data: shard {path} holds {member.name} twice in a row")
            last, members[suffix] = key, member
    if members:
        yield last, members


def _cached(path: Path, state: os.stat_result) -> Path:
    what = f"1 {path.resolve()} {state.st_size} {state.st_mtime_ns}"
    name = hashlib.sha256(what.encode()).hexdigest()[:24]
    return user_path().parent / "shards" / f"{name}.npz"


def _load(path: Path, kept: Path) -> Index | None:
    try:
        with np.load(kept, allow_pickle=False) as arrays:
            return Index(
                path, arrays["keys"].tolist(), arrays["classes"].tolist(), arrays["offsets"],
                arrays["sizes"],
            )  # fmt: skip
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # not there, or half written by a crash: it is made again


def _store(index: Index, kept: Path) -> None:
    """Write in one step, so that no reader sees half of it. A cache that cannot be is no error."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=kept.parent, prefix=".")
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file, keys=np.array(index.keys, str), classes=np.array(index.classes, str),
                offsets=index.offsets, sizes=index.sizes,
            )  # fmt: skip
        os.replace(part, kept)
    except OSError:
        return
