"""A folder of features: shards in safetensors or Parquet, a manifest with their checksums.

| file | what | written |
|---|---|---|
| manifest.json | settings, classes, columns; of a whole run the shards' SHA-256 | at both ends |
| shard-00000.safetensors | features of a run of records, names, labels; or .parquet | in turn |
| shard-00000.json | its SHA-256 and what was skipped, until the manifest has that | after it |

Each appears whole or not at all. A shard is there when the file that has its checksum is: so what a
process loses when it is killed is the shard it was at. Shards do not depend on how many processes
make them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vggfast.data.base import require
from vggfast.errors import InputError
from vggfast.evaluation.scores import file_hash
from vggfast.files import write_atomically

FORMAT = 1
MANIFEST = "manifest.json"
FORMATS = ("safetensors", "parquet")
KEY = "vggfast.features"
_FIELDS = {
    "complete": bool, "settings": dict, "kind": str, "classes": list, "dimension": int,
    "parts": list, "shards": list,
}  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """What the manifest says of a shard.

    Attributes:
        file: its name.
        sha256: of its content.
        records: how many vectors it has.
        skipped: names of images that could not be read.
    """

    file: str
    sha256: str
    records: int
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """The content of a shard, n rows.

    Attributes:
        index: (n,) int64, the record's number in the whole run.
        names, labels, parts, boxes: as :class:`vggfast.transfer.records.Records` has them.
        features: (n, F), float32.
    """

    index: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    parts: tuple[str, ...]
    boxes: np.ndarray | None
    features: np.ndarray


def shard_name(number: int, form: str) -> str:
    return f"shard-{number:05d}.{form}"


def write_shard(path: Path, rows: Rows, skipped: tuple[str, ...] = ()) -> Shard:
    """Write a shard and then, beside it, its checksum, each atomically.

    Raises:
        InputError: it cannot be written.
    """
    write = _write_parquet if path.suffix == ".parquet" else _write_safetensors
    try:
        path.with_suffix(".json").unlink(missing_ok=True)  # of another, that somebody has deleted
        write_atomically(path, lambda new: write(new, rows))
        shard = Shard(path.name, file_hash(path), len(rows.names), skipped)
        write_json(path.with_suffix(".json"), asdict(shard))
    except (OSError, SafetensorError) as error:
        raise InputError(f"out: cannot write {path} ({error})") from None
    return shard


def read_shard(path: Path, shard: Shard) -> Rows:
    """Read a shard whose content is what the manifest says.

    Raises:
        InputError: it is missing, has another checksum, or is no shard.
    """
    verify(path, shard)
    read = _read_parquet if path.suffix == ".parquet" else _read_safetensors
    try:
        rows = read(path)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise InputError(f"features: {path} is no shard of features ({error})") from None
    lengths = {
        name: len(getattr(rows, name)) for name in ("features", "labels", "names", "parts", "index")
    } | ({} if rows.boxes is None else {"boxes": len(rows.boxes)})
    for name, length in lengths.items():
        if length != shard.records:
            raise InputError(
                f"features: {path} has {length} {name}, allowed is one for each of its "
                f"{shard.records} records"
            )
    if rows.features.ndim != 2 or rows.labels.dtype.kind != "i" or rows.labels.ndim not in (1, 2):
        raise InputError(
            f"features: {path} has features of shape {rows.features.shape} and labels of "
            f"{rows.labels.dtype}, allowed are vectors, and whole numbers"
        )
    return rows


def verify(path: Path, shard: Shard) -> None:
    """Raises InputError, naming it, if a shard is missing or its checksum is another."""
    if not path.is_file():
        raise InputError(f"features: no file {path}, which the manifest names; extract it again")
    found = file_hash(path)
    if found != shard.sha256:
        raise InputError(
            f"features: shard {path} has the SHA-256 {found[:12]}…, not {shard.sha256[:12]}…: it "
            "has changed since it was written; delete it and extract again"
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        InputError: there is none, or it is something else.
    """
    allowed = "allowed is a folder that python -m vggfast.features extract has written"
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"features: no {MANIFEST} in {folder}; {allowed}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["vggfast_features"] != FORMAT:
            raise ValueError(f"format {found['vggfast_features']}")
        for name, kind in _FIELDS.items():
            if not isinstance(found[name], kind):
                raise ValueError(f"{name}: {found[name]!r}")
        for name in ("layer", "combine", "normalise"):  # which titles and stacking read
            found["settings"][name]
        shards_of(found)
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"features: cannot use {path} ({error!r:.100}); {allowed}") from None


def shards_of(manifest: dict[str, Any]) -> list[Shard]:
    """The shards that a manifest lists."""
    return [_shard(entry) for entry in manifest["shards"]]


def finished(folder: Path, form: str, count: int) -> dict[int, Shard]:
    """The shards that are there, by number, of those not yet in the manifest.

    Raises:
        InputError: a file with a checksum is damaged.
    """
    found = {}
    for number in range(count):
        path = (folder / shard_name(number, form)).with_suffix(".json")
        if path.is_file() and (folder / shard_name(number, form)).is_file():
            try:
                found[number] = _shard(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"out: cannot use {path} ({error!r:.100}); delete it and extract again"
                ) from None
    return found


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically. Raises OSError."""
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))


def _shard(entry: dict[str, Any]) -> Shard:
    return Shard(
        str(entry["file"]), str(entry["sha256"]), int(entry["records"]), tuple(entry["skipped"])
    )


def _write_safetensors(path: Path, rows: Rows) -> None:
    tensors = {"index": rows.index, "label": rows.labels, "features": rows.features}
    if rows.boxes is not None:
        tensors["box"] = rows.boxes
    texts = {"names": list(rows.names), "parts": list(rows.parts)}
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    save_file(contiguous, path, {KEY: json.dumps(texts)})


def _read_safetensors(path: Path) -> Rows:
    with safe_open(path, "numpy") as file:
        texts = json.loads((file.metadata() or {})[KEY])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Rows(
        arrays["index"], tuple(texts["names"]), arrays["label"], tuple(texts["parts"]),
        arrays.get("box"), arrays["features"],
    )  # fmt: skip


def _write_parquet(path: Path, rows: Rows) -> None:
    pa, pq = require("pyarrow", "pyarrow"), require("pyarrow.parquet", "pyarrow")

    def lists(array: np.ndarray) -> Any:
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, array.shape[1])

    columns = {
        "index": pa.array(rows.index),
        "name": pa.array(rows.names, pa.string()),
        "part": pa.array(rows.parts, pa.string()),
        "label": pa.array(rows.labels) if rows.labels.ndim == 1 else lists(rows.labels),
        "features": lists(rows.features),
    }
    if rows.boxes is not None:
        columns["box"] = lists(rows.boxes)
    about = {"columns": rows.features.shape[1], "marks": rows.labels.shape[1:]}
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(about)})
    pq.write_table(table, path, compression="zstd")


def _read_parquet(path: Path) -> Rows:
    pa, pq = require("pyarrow", "pyarrow"), require("pyarrow.parquet", "pyarrow")
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from None
    about = json.loads((table.schema.metadata or {})[KEY.encode()])

    def matrix(name: str, columns: int) -> np.ndarray:
        flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        rows: np.ndarray = flat.reshape(-1, columns)
        return rows

    marks = about["marks"]
    return Rows(
        table["index"].to_numpy(),
        tuple(table["name"].to_pylist()),
        matrix("label", marks[0]) if marks else table["label"].to_numpy(),
        tuple(table["part"].to_pylist()),
        matrix("box", 4) if "box" in table.column_names else None,
        matrix("features", about["columns"]),
    )
