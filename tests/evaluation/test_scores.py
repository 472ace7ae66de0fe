"""Score files: what is written comes back; what is damaged or other is refused by name."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from vggfast.errors import InputError
from vggfast.evaluation import scores as files
from vggfast.evaluation.scores import Scores, Source, difference, read, write

from .helpers import source

pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def made() -> Scores:
    names = ("ant/1.png", "bee/ü,\n.png", "cat/3.png", "cat/4.png")
    posteriors = torch.rand(4, 3).softmax(1)
    return Scores(source(), names, torch.tensor([0, 1, 2, 2]), posteriors, skipped=2)


def test_what_is_written_comes_back(made: Scores, tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "a.parquet"
    write(path, made)
    found = read(path)
    assert (found.source, found.names, found.skipped) == (made.source, made.names, 2)
    assert torch.equal(found.labels, made.labels)
    assert torch.equal(found.posteriors, made.posteriors)
    assert found.posteriors.dtype == torch.float32
    assert [p.name for p in path.parent.iterdir()] == ["a.parquet"]


def test_others_can_read_it(made: Scores, tmp_path: Path) -> None:
    """Plain Parquet: columns by name, and metadata that is JSON."""
    write(tmp_path / "a.parquet", made)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column_names == ["name", "label", "posterior"]
    assert table["label"].to_pylist() == [0, 1, 2, 2]
    assert table["posterior"].to_pylist()[1] == made.posteriors[1].tolist()
    about = json.loads(table.schema.metadata[b"vggfast.scores"])
    assert about["weights"] == made.source.weights
    assert about["protocol"] == "dense"
    assert about["classes"] == ["ant", "bee", "cat"]


def test_a_write_that_fails_leaves_what_was_there(
    made: Scores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    write(path, made)
    before = path.read_bytes()

    def half(table: object, where: Path, **options: object) -> None:
        where.write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", half)
    with pytest.raises(InputError, match=r"scores: cannot write .*no space left"):
        write(path, replace(made, skipped=0))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_damaged_file(made: Scores, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.parquet"
    write(path, made)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"scores: cannot use .*a\.parquet"):
        read(path)


def test_other_files(made: Scores, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="scores: no file"):
        read(tmp_path / "none.parquet")
    path = tmp_path / "a.parquet"
    write(path, made)
    table = pq.read_table(path)
    for metadata in ({}, {b"vggfast.scores": b"{}"}, {b"vggfast.scores": b"not JSON"}):
        pq.write_table(table.replace_schema_metadata(metadata), path)
        with pytest.raises(InputError, match="cannot use"):
            read(path)
    write(path, made)
    about = json.loads(pq.read_schema(path).metadata[b"vggfast.scores"])
    for wrong in ({"format": 2}, {"classes": ["ant", "bee"]}):
        new = {b"vggfast.scores": json.dumps({**about, **wrong}).encode()}
        pq.write_table(table.replace_schema_metadata(new), path)
        with pytest.raises(InputError, match="cannot use"):
            read(path)


def test_the_first_difference_is_named() -> None:
    changed = {
        "weights": "ff", "net": "D", "crop": 64, "trained": (37, 40), "data": "digits",
        "part": "train", "names": "cd", "protocol": "single", "scale": 40, "flips": False,
        "dtype": "bf16",
    }  # fmt: skip
    assert {f.name for f in fields(Source)} - set(changed) == {"classes", "file"}
    for name, value in changed.items():
        text = difference(source(**{name: value}), source())
        assert text is not None
        assert text.startswith(f"{name}: {value!r}, not ")
    assert difference(source(file="elsewhere"), source()) is None
    assert difference(source(classes=("ant", "bat")), source()) == (
        "classes: class 1 is 'bat', not 'bee'"
    )


def test_classes_that_are_too_many_or_few() -> None:
    assert files.class_difference(("a", "b"), ("a", "b")) is None
    assert files.class_difference(("a", "b"), ("b", "a")) == "class 0 is 'a', not 'b'"
    assert files.class_difference(("a",), ("a", "b")) == (
        "1 classes, not 2: class 1, 'b', is extra"
    )


def test_file_names_tell_sources_apart() -> None:
    names = [
        source(**change).file_name
        for change in (
            {}, {"weights": "ba9876543210"}, {"protocol": "multicrop"}, {"scale": 42},
            {"flips": False}, {"dtype": "bf16"}, {"part": "train"}, {"names": "cd" * 32},
        )
    ]  # fmt: skip
    assert len(set(names)) == len(names)
