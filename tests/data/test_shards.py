"""Shards: patterns, the index and its cache, and that samples are the archive's."""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vggfast.data import Batches, load, open_images, parse_spec, tar_index
from vggfast.data.pattern import expand, is_shards, split
from vggfast.errors import InputError

Member = tuple[str, bytes]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VGGFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


def write(path: Path, members: Sequence[Member], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@pytest.fixture
def shards(tmp_path, pictures) -> tuple[str, list[np.ndarray]]:
    """Three shards of four samples; sample i has class i % 3. And their pixels."""
    cat, pixels = pictures["cat"], []
    for shard in range(3):
        members: list[Member] = []
        for i in range(4 * shard, 4 * shard + 4):
            pixels.append(cat[10 * i : 10 * i + 60, 20 * i : 20 * i + 70])
            members += [
                (f"photos/{i:04d}.json", b"{}"),
                (f"photos/{i:04d}.png", png(pixels[-1])),
                (f"photos/{i:04d}.cls", f"{i % 3}\n".encode()),
            ]
        write(tmp_path / f"s-{shard:03d}.tar", members)
    return str(tmp_path / "s-{000..002}.tar"), pixels


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("a.tar", ["a.tar"]),
     ("s-{0008..0011}.tar", ["s-0008.tar", "s-0009.tar", "s-0010.tar", "s-0011.tar"]),
     ("{9..11}.tar", ["9.tar", "10.tar", "11.tar"]),
     ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
     ("{x,}y.tar", ["xy.tar", "y.tar"])],
)  # fmt: skip
def test_braces(pattern, names):
    assert expand(pattern) == names


def test_the_pattern_decides_the_kind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_spec("shards-{0000..0127}.tar") == ("shards", "shards-{0000..0127}.tar")
    assert split("a-{0,1}.tar,b.tar") == ("a-{0,1}.tar", "b.tar")
    assert not is_shards("photos")
    assert parse_spec("photos") == ("folder", "photos")
    (tmp_path / "odd.tar").mkdir()
    assert parse_spec("odd.tar") == ("folder", "odd.tar")


@pytest.mark.parametrize(
    ("spec", "message"),
    [("a.tar,b.tar,c.tar", "TRAIN.tar,VAL.tar"), ("a.tar.gz", "not compressed"),
     ("a.tar,b", "TRAIN.tar,VAL.tar"), ("{2..1}.tar", "is empty"), ("{0..1.tar", "do not match"),
     ("none-{0..1}.tar", "no shard none-0.tar")],
)  # fmt: skip
def test_bad_patterns(spec, message):
    with pytest.raises(InputError, match=message) as raised:
        open_images(spec)
    assert "\n" not in str(raised.value)


def test_every_tenth_is_held_out_and_samples_are_the_archives(shards):
    spec, pixels = shards
    train, val = (open_images(spec, part) for part in ("train", "val"))
    assert (len(train), len(val)) == (11, 1)
    assert train.classes == ("0", "1", "2")
    order = [i for i in range(12) if i != 9]
    for place, i in enumerate(order):
        image, label = train[place]
        assert np.array_equal(np.asarray(image), pixels[i])
        assert label == i % 3
        assert train.name(place) == f"s-{i // 4:03d}.tar:photos/{i:04d}"
    assert np.array_equal(np.asarray(val[0][0]), pixels[9])


def test_a_second_pattern_is_for_validation(shards, tmp_path):
    pixels = shards[1]
    data = f"{tmp_path}/s-{{000,001}}.tar,{tmp_path}/s-002.tar"
    val = open_images(data, "val")
    assert [val[i][1] for i in range(4)] == [2, 0, 1, 2]
    assert np.array_equal(np.asarray(val[0][0]), pixels[8])
    loaded = load(data, size=32, scale=(40, 50))
    x, y = zip(*Batches(loaded.train, 3, shuffle=True, workers=2).epoch(), strict=True)
    assert torch.cat(x).shape == (8, 3, 32, 32)
    assert sorted(torch.cat(y).tolist()) == [0, 0, 0, 1, 1, 1, 2, 2]


def test_classes_by_name(tmp_path, pictures):
    raw = png(pictures["cat"], "JPEG")
    members = []
    for i, name in enumerate(("dog", "cat", "dog", "eel")):
        members += [(f"{i}.cls", name.encode()), (f"{i}.jpg", raw)]
    path = write(tmp_path / "a.tar", members)
    images = open_images(f"{path},{path}", "train")
    assert images.classes == ("cat", "dog", "eel")
    assert list(images.labels) == [1, 0, 1, 2]
    members[:0] = [("n.cls", b"7"), ("n.jpg", raw)]
    path = write(tmp_path / "b.tar", members)
    with pytest.raises(InputError, match="numbers, or names"):
        open_images(f"{path},{path}")


def test_long_names_and_other_members(tmp_path, pictures):
    raw, long = png(pictures["cat"]), "d" * 120 + "/" + "k" * 120
    members = [
        ("readme.txt", b"x"),
        (f"{long}.v2.json", b"{}"),
        (f"{long}.png", raw),
        (f"{long}.cls", b"1"),
    ]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.open(path, "w", format=form) as archive:
            archive.addfile(tarfile.TarInfo("folder"))
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        index = tar_index.index_of(path)
        assert (index.keys, index.classes) == ([long], ["1"])
        assert path.read_bytes()[index.offsets[0] : index.offsets[0] + index.sizes[0]] == raw


@pytest.mark.parametrize(
    ("members", "message"),
    [([("a.jpg", b"x")], "sample a of shard .* has .jpg; allowed are one image and .cls"),
     ([("a.cls", b"1")], "has .cls;"),
     ([("a.jpg", b"x"), ("a.png", b"x"), ("a.cls", b"1")], "has .cls, .jpg, .png"),
     ([("a.jpg", b"x"), ("a.jpg", b"x")], "twice"),
     ([("a.jpg", b"x"), ("a.cls", b" ")], "empty .cls"),
     ([("a.jpg", b"x"), ("a.cls", b"99999999999")], "class 99999999999"),
     ([("a.txt", b"x")], "no sample"),
     ([], "no sample"),
     ([("a.jpg", b"x"), ("a.cls", b"1")], "1 samples")],
)  # fmt: skip
def test_bad_samples(tmp_path, members, message):
    path = write(tmp_path / "a.tar", members)
    with pytest.raises(InputError, match=message) as raised:
        open_images(str(path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("cut", [100, 700, 5000, -11000])
def test_a_damaged_archive_is_named(shards, tmp_path, cut):
    path = tmp_path / "s-001.tar"
    raw = path.read_bytes()
    path.write_bytes(raw[:cut])
    with pytest.raises(InputError, match=re.escape(str(path))):
        open_images(shards[0])
    path.write_bytes(b"\x07" * 5000)
    with pytest.raises(InputError, match=re.escape(str(path))):
        open_images(shards[0])


def test_a_sample_lost_after_indexing_is_a_bad_image(shards, tmp_path):
    images = open_images(shards[0], "train")
    os.truncate(tmp_path / "s-002.tar", 600)
    with pytest.raises(InputError, match=r"s-002\.tar:photos/0011 \(the archive is cut off\)"):
        images[10]
    (tmp_path / "s-002.tar").unlink()
    with pytest.raises(InputError, match="No such file"):
        images[10]
    images[0]


def test_the_index_is_read_again_only_when_the_archive_changed(
    shards, tmp_path, monkeypatch, cache
):
    scanned = []
    real = tar_index._scan
    monkeypatch.setattr(tar_index, "_scan", lambda path: scanned.append(path.name) or real(path))
    first = open_images(shards[0], "train")
    assert scanned == ["s-000.tar", "s-001.tar", "s-002.tar"]
    scanned.clear()
    again = open_images(shards[0], "train")
    assert scanned == []
    assert [again[i][1] for i in range(11)] == [first[i][1] for i in range(11)]
    assert np.array_equal(np.asarray(again[7][0]), np.asarray(first[7][0]))
    os.utime(tmp_path / "s-001.tar", ns=(1, 1))
    next(iter(cache.glob("*.npz"))).write_bytes(b"half")
    open_images(shards[0], "train")
    assert len(scanned) in (1, 2)  # the changed one, and the damaged index if it was another's


def test_a_cache_that_cannot_be_written_is_no_error(shards, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VGGFAST_CACHE", str(tmp_path / "file"))
    assert len(open_images(shards[0], "train")) == 11
