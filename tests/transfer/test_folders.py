"""Folders of features: what an interrupted run leaves, how it goes on, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import vggfast
from vggfast.features import extract, load
from vggfast.transfer import extraction, iterate, store

ROOT = Path(vggfast.__file__).parents[1]
COMMAND = str(Path(__file__).with_name("narrow_command.py"))
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
Refused = Callable[..., str]


@pytest.fixture
def plain(net: Path, photos: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of four shards, in safetensors."""
    return {
        "weights": net, "data": f"images:{photos}", "out": tmp_path / "out", "scales": "32",
        "format": "safetensors", "shard_size": 2, "progress": False,
    }  # fmt: skip


@pytest.fixture(params=["safetensors", "parquet"])
def options(request: pytest.FixtureRequest, plain: dict[str, Any]) -> dict[str, Any]:
    """The same, in both formats."""
    if request.param == "parquet":
        pytest.importorskip("pyarrow")
    return {**plain, "format": request.param}


def argv(options: dict[str, Any]) -> list[str]:
    """The same for the command."""
    found = ["extract", "--quiet", "--device", "cpu"]
    for name, value in options.items():
        if name != "progress":
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found


def test_the_manifest_has_checksums_settings_and_classes(options: dict[str, Any]) -> None:
    extract(**options)
    out = options["out"]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert [shard["records"] for shard in manifest["shards"]] == [2, 2, 2, 1]
    for shard in manifest["shards"]:
        content = (out / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
    weights = hashlib.sha256(options["weights"].read_bytes()).hexdigest()
    assert manifest["settings"]["weights"] == [weights]
    assert manifest["settings"]["scales"] == [[32]]
    assert manifest["settings"]["layer"] == "relu7"
    files = {path.name for path in out.iterdir()}
    assert files == {"manifest.json", *(shard["file"] for shard in manifest["shards"])}


def test_shards_one_by_one_are_what_load_gives(options: dict[str, Any]) -> None:
    extract(**options)
    whole, parts = load(options["out"]), list(iterate(options["out"]))
    assert [len(rows.names) for rows in parts] == [2, 2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([p.features for p in parts]), whole.values)
    assert np.concatenate([p.index for p in parts]).tolist() == list(range(7))


def test_a_run_that_was_cut_off_goes_on_where_it_was(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cut off before any of the points at which something is written."""
    whole = tmp_path / "whole"
    extract(**{**options, "out": whole})
    write, out = store.write_atomically, options["out"]
    for cut_at in range(1, 12):
        calls = []

        def cut(path: Path, fill: Any, cut_at: int = cut_at, calls: list[Path] = calls) -> None:
            calls.append(path)
            if len(calls) == cut_at:
                raise KeyboardInterrupt
            write(path, fill)

        with monkeypatch.context() as patch:
            patch.setattr(store, "write_atomically", cut)
            try:
                extract(**options)
                break
            except KeyboardInterrupt:
                pass
        shards = [p for p in calls[:-1] if p.name.endswith(options["format"])]
        kept = {p: p.stat().st_mtime_ns for p in shards if p.with_suffix(".json").is_file()}
        assert len(shards) - len(kept) <= 1  # a shard without its checksum
        done = extract(**options)
        assert done is not None
        assert done.made == 4 - len(kept)
        assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
        assert load(out).values.tobytes() == load(whole).values.tobytes()
        for path in out.iterdir():
            path.unlink()
    else:
        pytest.fail("the run was never whole")
    assert cut_at == 11  # the manifest, four shards, each with its checksum, the manifest again


def test_a_whole_run_is_not_done_again(options: dict[str, Any]) -> None:
    extract(**options)
    before = {path: path.stat().st_mtime_ns for path in options["out"].iterdir()}
    done = extract(**options)
    assert done is not None
    assert (done.made, done.records, done.shards) == (0, 7, 4)
    assert {path: path.stat().st_mtime_ns for path in options["out"].iterdir()} == before


def test_a_shard_that_is_gone_is_made_again(options: dict[str, Any]) -> None:
    extract(**options)
    before = load(options["out"]).values
    shard = options["out"] / store.shard_name(2, options["format"])
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(vggfast.InputError, match=f"no file {shard}"):
        load(options["out"])
    done = extract(**options)
    assert done is not None
    assert done.made == 1
    assert shard.read_bytes() == content
    np.testing.assert_array_equal(load(options["out"]).values, before)


def test_a_shard_with_another_checksum_is_named(options: dict[str, Any], refused: Refused) -> None:
    extract(**options)
    shard = options["out"] / store.shard_name(1, options["format"])
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(vggfast.InputError, match=f"shard {shard} has the SHA-256 "):
        load(options["out"])
    assert f"shard {shard} has the SHA-256 " in refused(*argv(options))
    assert shard.read_bytes() == content  # nothing was touched
    assert "shard-00001" in refused("classify", "--features", str(options["out"]))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"label": np.zeros(1, np.int64)},
            "has 1 labels, allowed is one for each of its 2 records",
        ),
        ({"index": np.zeros(3, np.int64)}, "has 3 index, allowed"),
        ({"features": np.zeros(2, np.float32)}, r"features of shape \(2,\)"),
        ({"label": np.zeros(2, np.float32)}, "labels of float32"),
    ],
)
def test_a_shard_that_does_not_fit_itself(
    changed: dict[str, np.ndarray], told: str, plain: dict[str, Any]
) -> None:
    """As from elsewhere, with a checksum that is right."""
    extract(**plain)
    shard = plain["out"] / "shard-00001.safetensors"
    with safe_open(shard, "numpy") as file:
        about = file.metadata()
    save_file({**load_file(shard), **changed}, shard, about)
    manifest = json.loads((plain["out"] / "manifest.json").read_text())
    manifest["shards"][1]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (plain["out"] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(vggfast.InputError, match=told):
        load(plain["out"])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("layer", "relu5_2", "begun with layer relu7, not relu5_2"),
        ("scales", "32,40", "begun with scales 32, not 32, 40"),
        ("combine", "stack", "begun with combine average, not stack"),
        ("normalise", False, "begun with normalise True, not False"),
        ("flips", False, "begun with flips True, not False"),
        ("shard_size", 3, "begun with shard_size 2, not 3"),
        ("dtype", "bf16", "begun with dtype fp32, not bf16"),
        ("limit", 3, "begun with records "),
        ("on_bad_image", "skip", "begun with on_bad_image fail, not skip"),
    ],
)
def test_other_settings_are_refused(
    name: str, value: object, told: str, plain: dict[str, Any], tmp_path: Path
) -> None:
    extract(**plain)
    before = {path: path.read_bytes() for path in plain["out"].iterdir()}
    with pytest.raises(vggfast.InputError, match=told):
        extract(**{**plain, name: value})
    assert {path: path.read_bytes() for path in plain["out"].iterdir()} == before


def test_other_weights_are_refused(plain: dict[str, Any], other: Path) -> None:
    extract(**plain)
    with pytest.raises(vggfast.InputError, match="begun with weights "):
        extract(**{**plain, "weights": other})


def test_a_run_that_is_not_over_is_not_read(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(extraction.Extraction, "finish", lambda self, made: None)
        extract(**options)
    assert "is not over; start the same command again" in refused(
        "classify", "--features", str(options["out"])
    )
    done = extract(**options)
    assert done is not None
    assert done.made == 0
    assert len(load(options["out"])) == 7


def test_folders_that_are_no_run(options: dict[str, Any], refused: Refused, tmp_path: Path) -> None:
    out = options["out"]
    assert f"no manifest.json in {out}" in refused("classify", "--features", str(out))
    out.mkdir()
    (out / store.shard_name(0, options["format"])).write_bytes(b"something")
    assert "but no manifest.json" in refused(*argv(options))
    for content in ("", "{}", '{"vggfast_features": 9}'):
        (out / "manifest.json").write_text(content)
        assert "cannot use" in refused("classify", "--features", str(out))
    (out / store.shard_name(0, options["format"])).unlink()
    (out / "manifest.json").unlink()
    extract(**options)
    whole = json.loads((out / "manifest.json").read_text())
    for name in set(whole) - {"files"}:
        for lacking in ({k: v for k, v in whole.items() if k != name}, {**whole, name: None}):
            (out / "manifest.json").write_text(json.dumps(lacking))
            assert "cannot use" in refused("classify", "--features", str(out))
    assert "cannot use" in refused(*argv(options))
    blocked = tmp_path / "file"
    blocked.write_text("a file")
    assert "out: cannot write to" in refused(*argv({**options, "out": blocked}))


def test_two_runs_do_not_share_a_folder(plain: dict[str, Any]) -> None:
    extract(**{**plain, "limit": 3})
    path = plain["out"] / "manifest.json"
    code = (
        "import sys, time; from vggfast.engine.claim import claim; from pathlib import Path;"
        "held = claim(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(vggfast.InputError, match="another process is extracting in"):
            extract(**{**plain, "limit": 3})
    finally:
        holder.kill()
        holder.wait()


def test_a_bad_image_is_skipped_and_named(
    options: dict[str, Any], photos: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    extract(**{**options, "out": options["out"].with_name("before")})
    before = load(options["out"].with_name("before"))
    bad = photos / before.names[2]
    bad.write_bytes(bad.read_bytes()[:60])
    assert before.names[2] in refused(*argv(options))
    for out in options["out"].iterdir():
        out.unlink()
    # A vector a shard, so that one shard has none.
    done = extract(**{**options, "on_bad_image": "skip", "shard_size": 1})
    assert done is not None
    assert (done.records, done.skipped, done.shards) == (6, (before.names[2],), 7)
    after = load(options["out"])
    rest = [i for i in range(7) if i != 2]
    assert after.names == tuple(before.names[i] for i in rest)
    np.testing.assert_allclose(after.values, before.values[rest], rtol=1e-4, atol=1e-6)


def test_a_process_that_decodes_changes_nothing(plain: dict[str, Any], tmp_path: Path) -> None:
    extract(**plain)
    extract(**{**plain, "out": tmp_path / "two", "workers": 1})
    one, two = load(plain["out"]), load(tmp_path / "two")
    assert one.names == two.names
    assert one.values.tobytes() == two.values.tobytes()


def test_two_processes_are_one(plain: dict[str, Any], tmp_path: Path) -> None:
    """Four shards, so each makes two; the manifest is that of one process."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *launcher, COMMAND, *argv(plain)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    extract(**{**plain, "out": tmp_path / "one"})
    one, two = load(tmp_path / "one"), load(plain["out"])
    assert one.manifest["settings"] == two.manifest["settings"]
    assert one.names == two.names
    np.testing.assert_allclose(one.values, two.values, rtol=1e-5, atol=1e-7)


@pytest.mark.long
def test_a_killed_run_loses_one_shard_at_most(plain: dict[str, Any], tmp_path: Path) -> None:
    many = ",".join(str(q) for q in range(32, 92, 2))
    plain = {**plain, "scales": many, "combine": "stack"}
    out, command = plain["out"], [sys.executable, COMMAND, *argv(plain)]
    for least in (1, 2):
        process = subprocess.Popen(command, env=ENVIRONMENT)
        until = time.monotonic() + 60
        while len(list(out.glob("shard-*.json"))) < least and time.monotonic() < until:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        whole = {p.stem for p in out.glob("shard-*.json")}
        shards = {p.stem: p for p in out.glob("shard-*.safetensors")}
        assert least <= len(whole) < 4
        assert whole <= set(shards)
        assert len(shards) - len(whole) <= 1
    kept = {shards[name]: shards[name].stat().st_mtime_ns for name in whole}
    assert subprocess.run(command, env=ENVIRONMENT, timeout=120).returncode == 0
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert len(load(out)) == 7
