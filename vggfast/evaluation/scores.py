"""Posteriors of a data set's images by one network, protocol and scale, kept as Parquet.

Columns: ``name`` (string), ``label`` (int32), ``posterior`` (a list of as many float32 as there are
classes), one row an image. The schema's metadata has one entry, ``vggfast.scores``: JSON of
:class:`Source` with the format's number. A file is written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vggfast.data.base import require
from vggfast.errors import InputError
from vggfast.files import write_atomically

FORMAT = 1
KEY = b"vggfast.scores"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where scores come from: what must agree for a file to be used again.

    ``weights`` is the SHA-256 of the network's file and ``names`` that of the images' names and
    labels, in order; ``trained`` is (S_min, S_max). ``file`` is for readers only: it may differ.
    """

    weights: str
    net: str
    crop: int
    trained: tuple[int, int]
    classes: tuple[str, ...]
    data: str
    part: str
    names: str
    protocol: str
    scale: int
    flips: bool
    dtype: str
    file: str = ""

    @property
    def file_name(self) -> str:
        """The name of the Parquet file: net, start of the hash, protocol, Q."""
        mirror = "" if self.flips else "-noflips"
        start = f"{self.net}-{self.weights[:8]}-{self.part}-{self.names[:8]}"
        return f"{start}-{self.protocol}-{self.scale}-{self.dtype}{mirror}.parquet"


@dataclass(frozen=True)
class Scores:
    """``labels`` (N,) int64 and ``posteriors`` (N, classes) float32 of the images ``names``.

    ``skipped`` images could not be read and are in none of the three.
    """

    source: Source
    names: tuple[str, ...]
    labels: Tensor
    posteriors: Tensor
    skipped: int = 0


def digest(names: Sequence[str], labels: Sequence[int]) -> str:
    """SHA-256 of images' names and labels, in order."""
    lines = (f"{name}\0{label}\0" for name, label in zip(names, labels, strict=True))
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def prepare(folder: Path) -> None:
    """Create the folder for score files and see that they can be written, before hours of work.

    Raises:
        InputError: they cannot.
    """
    require("pyarrow", "pyarrow")
    require("pyarrow.parquet", "pyarrow")
    trial = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink(missing_ok=True)  # another run may have been quicker
    except OSError as error:
        raise InputError(
            f"scores: cannot write to {folder} ({error.strerror}); allowed is a folder that can be "
            "written to"
        ) from None


def write(path: Path, scores: Scores) -> None:
    """Write scores to ``path``, atomically.

    Raises:
        InputError: it cannot be written.
    """
    pa, pq = require("pyarrow", "pyarrow"), require("pyarrow.parquet", "pyarrow")
    flat = np.ascontiguousarray(scores.posteriors.numpy(), dtype=np.float32).reshape(-1)
    columns = {
        "name": pa.array(scores.names, pa.string()),
        "label": pa.array(scores.labels.numpy().astype(np.int32)),
        "posterior": pa.FixedSizeListArray.from_arrays(
            pa.array(flat), scores.posteriors.shape[1]
        ),
    }  # fmt: skip
    about = {"format": FORMAT, "skipped": scores.skipped, **asdict(scores.source)}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(about)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda new: pq.write_table(table, new, compression="zstd"))
    except OSError as error:
        raise InputError(f"scores: cannot write {path} ({error})") from None


def read(path: Path) -> Scores:
    """Read what :func:`write` wrote.

    Raises:
        InputError: the file is missing, damaged or something else.
    """
    pa, pq = require("pyarrow", "pyarrow"), require("pyarrow.parquet", "pyarrow")
    allowed = "allowed is a Parquet file of scores that vggfast.evaluate wrote"
    if not path.is_file():
        raise InputError(f"scores: no file {path}; {allowed}")
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[KEY])
        source, skipped = _source(about), int(about["skipped"])
        lists = table["posterior"].combine_chunks()
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        posteriors = torch.tensor(flat, dtype=torch.float32).view(-1, len(source.classes))
        labels = torch.tensor(table["label"].to_numpy(), dtype=torch.int64)
        names = tuple(table["name"].to_pylist())
        if len(posteriors) != len(names):
            raise ValueError(f"{len(posteriors)} rows of scores for {len(names)} images")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, pa.ArrowException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"scores: cannot use {path} ({reason[:100]}); {allowed}") from None
    return Scores(source, names, labels, posteriors, skipped)


def difference(a: Source, b: Source) -> str | None:
    """The first field in which two sources differ, as "field: a's, not b's"; None if in none."""
    for field in fields(Source):
        mine, other = getattr(a, field.name), getattr(b, field.name)
        if mine == other or field.name == "file":
            continue
        if field.name == "classes":
            return f"classes: {class_difference(mine, other)}"
        return f"{field.name}: {mine!r}, not {other!r}"
    return None


def class_difference(a: tuple[str, ...], b: tuple[str, ...]) -> str | None:
    """The first class in which two lists differ, in words; None if they are the same."""
    for number, (mine, other) in enumerate(zip(a, b, strict=False)):
        if mine != other:
            return f"class {number} is {mine!r}, not {other!r}"
    if len(a) != len(b):
        number = min(len(a), len(b))
        longer = max(a, b, key=len)
        return f"{len(a)} classes, not {len(b)}: class {number}, {longer[number]!r}, is extra"
    return None


def _source(about: dict[str, Any]) -> Source:
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']}")
    values = {field.name: about[field.name] for field in fields(Source)}
    for name in ("classes", "trained"):
        values[name] = tuple(values[name])
    return Source(**values)
