"""Measured tiles: who goes first, which shapes an entry serves, what a bad file does."""

from __future__ import annotations

import json
import sys
import timeit
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from triton_cases import GPU, maps, weights
from vggfast.kernels import ops, table_file, tiles, tuned
from vggfast.kernels.launch import gpu
from vggfast.kernels.table_file import Entry, Gpu, Shape, TableError

from vggfast import explain

H100 = Gpu("9.0", "NVIDIA H100 80GB HBM3")
H200 = Gpu("9.0", "NVIDIA H200")
FPROP = tiles.candidates("fprop", 90, 16)
WIDE = next(t for t in FPROP if (t.box, t.bc) == ((1, 8, 16), 64))
SQUARE = next(t for t in FPROP if (t.box, t.bc) == ((8, 4, 4), 64))


def ask(n: int, h: int = 64, w: int = 64, **changes: Any) -> tuned.Query:
    query = tuned.Query(
        "fprop", 90, 16, (n, h, w), 128, 64, "fprop", False, "bf16", H100
    )  # fmt: skip
    return query._replace(**changes)


def measured(n: int, tile: tiles.Tile, h: int = 64, w: int = 64, **changes: Any) -> Entry:
    entry = Entry(
        "fprop", Shape(table_file.bucket(n), h, w, 64, 128), H100, "bf16", tile, 0.5, 0.6, n,
        "3.6.0", "2.11.0", "2026-11-25T00:00:00+00:00",
    )  # fmt: skip
    return replace(entry, **changes)


def write(path: Path, *entries: Entry) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(table_file.render([e.as_dict() for e in entries], "of a test"))


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The path of the user's table in this test; a function writes both tables and reloads."""
    monkeypatch.setenv("VGGFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tuned, "SHIPPED", tmp_path / "tuned.json")

    def tables(mine: list[Entry], shipped: list[Entry] | None = None) -> Path:
        write(table_file.user_path(), *mine)
        write(tuned.SHIPPED, *(shipped or []))
        tuned.reload()
        return table_file.user_path()

    write(tuned.SHIPPED)
    tuned.reload()
    yield tables
    monkeypatch.undo()
    tuned.reload()


def test_forced_then_yours_then_shipped_then_the_rule(user: Any) -> None:
    query = ask(64)
    rule = tuned.choose(query)
    assert rule == tiles.choose(*query[:6])
    assert rule not in (WIDE, SQUARE)
    user([], [measured(64, SQUARE)])
    assert tuned.choose(query) == SQUARE
    user([measured(64, WIDE)], [measured(64, SQUARE)])
    assert tuned.choose(query) == WIDE
    assert tuned.as_shipped(query) == SQUARE
    with tiles.forced(rule):
        assert tuned.choose(query) == rule
    assert tuned.choose(query._replace(gpu=None)) == rule


def test_what_an_entry_is_of(user: Any) -> None:
    """Another op, dtype, pool, channel count or compute capability is another matter."""
    user([measured(64, WIDE)])
    assert tuned.choose(ask(64)) == WIDE
    for changes in (
        {"op": "dgrad"}, {"dtype": "fp16"}, {"pool": True}, {"c_in": 72}, {"c_out": 256},
        {"gpu": Gpu("10.0", "NVIDIA B200")}, {"arch": 80},
    ):  # fmt: skip
        query = ask(64, **changes)
        assert tuned.choose(query) == tuned.rule(query), changes


@pytest.mark.parametrize(
    ("n", "bucket"), [(0, 1), (1, 1), (2, 2), (3, 4), (33, 64), (64, 64), (65, 128), (257, 512)]
)
def test_images_are_rounded_up_to_a_power_of_two(n: int, bucket: int) -> None:
    assert table_file.bucket(n) == bucket


def test_a_class_serves_its_neighbours_within_a_factor_of_two(user: Any) -> None:
    user([measured(64, WIDE)])
    # 17 images are of the class of 32, 128 of their own: half and twice the pixels.
    served = [n for n in (8, 16, 17, 33, 64, 100, 128, 129, 256) if tuned.choose(ask(n)) == WIDE]
    assert served == [17, 33, 64, 100, 128]
    assert tuned.choose(ask(64, 80, 80)) == WIDE  # 1.56 times the pixels, and no waste
    assert tuned.choose(ask(64, 96, 96)) != WIDE


def test_the_nearest_class_serves(user: Any) -> None:
    user([measured(32, SQUARE), measured(64, WIDE)])
    assert tuned.choose(ask(32)) == SQUARE
    assert tuned.choose(ask(64)) == WIDE
    assert tuned.choose(ask(128)) == WIDE
    user([measured(32, SQUARE), measured(128, WIDE)])
    assert tuned.choose(ask(64)) == WIDE  # as near as the other, and the larger


def test_this_gpu_goes_before_another_of_its_capability(user: Any) -> None:
    user([measured(64, SQUARE, gpu=H200), measured(128, WIDE)])
    assert tuned.choose(ask(64)) == WIDE
    assert tuned.choose(ask(64, gpu=H200)) == SQUARE
    user([measured(64, SQUARE, gpu=H200)])
    assert tuned.choose(ask(64)) == SQUARE


def test_a_tile_that_wastes_more_serves_only_where_it_was_measured(user: Any) -> None:
    """A box of eight images: at the batch it was measured at it may win all the same."""
    user([measured(9, SQUARE)])
    assert SQUARE.work((9, 64, 64), 128, 64) > 1.7 * tuned.rule(ask(9)).work((9, 64, 64), 128, 64)
    assert tuned.choose(ask(9)) == SQUARE
    assert tuned.choose(ask(10)) == tuned.rule(ask(10))
    assert tuned.choose(ask(16)) == SQUARE


def test_the_launchers_ask_what_they_launch(user: Any, device: torch.device) -> None:
    """Sizes as memory has them, dgrad with its own name; the interpreter is a GPU of its own."""
    x = maps((3, 5, 9, 7), torch.float16, device, seed=1)
    w, b = weights(20, 5, torch.float16, device, seed=1)
    grad = maps((3, 20, 9, 7), torch.float16, device, seed=2)
    few, (w3, b3) = x[:, :3].contiguous(), weights(24, 3, torch.float16, device, seed=1)
    few = few.contiguous(memory_format=torch.channels_last)
    dz, pooled = (maps((3, 24, *s), torch.float16, device, seed=3) for s in ((9, 7), (4, 3)))
    codes = torch.zeros((3, 4, 3, 6), dtype=torch.uint8, device=device)
    none, dw, link = (None, None), (False, True, False), (False, True)
    below = torch.zeros((3, 9, 7, 2), dtype=torch.uint8, device=device)
    calls = {
        ("fprop", True, (3, 8, 6), 20, 8): lambda: ops.conv3x3(x, w, b, True, True, True),
        ("fprop", False, (3, 9, 7), 20, 8): lambda: ops.conv3x3(x, w, b, True, False, False),
        ("dgrad", False, (3, 9, 7), 5, 24): lambda: ops.conv3x3_backward(
            grad, x, w, *none, (True, False, False)
        ),
        ("wgrad", False, (3, 9, 7), 20, 5): lambda: ops.conv3x3_backward(grad, x, w, *none, dw),
        # At most three channels: as they are, by kernels of their own.
        ("first", True, (3, 8, 6), 24, 3): lambda: ops.conv3x3(few, w3, b3, True, True, True),
        ("first", False, (3, 9, 7), 24, 3): lambda: ops.conv3x3(few, w3, b3, True, False, False),
        ("first_wgrad", False, (3, 9, 7), 24, 3): lambda: ops.conv3x3_backward(
            dz, few, w3, *none, dw
        ),
        ("first_wgrad", True, (3, 4, 3), 24, 3): lambda: ops.conv3x3_backward(
            pooled, few, w3, pooled, codes, dw
        ),
        # A link of a chain, behind a pool of an odd map: one more column of windows.
        ("dgrad", True, (3, 9, 8), 5, 24): lambda: ops.conv3x3_chain_step(
            grad, x, w, below, 18, 15, link
        ),
        ("dgrad", False, (3, 9, 7), 5, 24, "link"): lambda: ops.conv3x3_chain_step(
            grad, x, w, None, 9, 7, link
        ),
    }
    for expected, call in calls.items():
        with tuned.asking() as noted:
            call()
        (query,) = noted
        found = (query.op, query.pool, query.pixels, query.c_out, query.c_in)
        assert found == expected[:5]
        chained = query.op == "dgrad" and (query.pool or len(expected) == 6)
        assert query.kernel == ("dgrad" if chained else query.op.replace("dgrad", "fprop"))
        assert (query.dtype, query.bits) == ("fp16", 16)
        assert query.gpu == gpu.identity(device)
    if not GPU:
        assert gpu.identity(device).capability == "interpreter"


def test_a_launch_runs_the_tile_of_the_table(
    user: Any, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = maps((1, 16, 8, 8), torch.float16, device, seed=1)
    w, b = weights(16, 16, torch.float16, device, seed=1)
    with tuned.asking() as noted:
        ops.conv3x3(x, w, b, True, False, False)
    query = noted[0]
    rule = tuned.rule(query)
    other = next(t for t in tiles.candidates(*query[:3]) if t != rule)
    shape = query.shape
    user([measured(1, other, shape=shape, gpu=query.gpu, dtype="fp16")])
    seen: list[tiles.Tile] = []
    monkeypatch.setattr(
        tuned, "_choose", lambda q, real=tuned._choose: seen.append(real(q)) or seen[-1]
    )
    ops.conv3x3(x, w, b, True, False, False)
    assert seen == [other]


def test_a_hot_choice_is_a_look_up(user: Any) -> None:
    """With a thousand entries no slower than with none: both are one look-up in a dictionary."""
    user([measured(n, WIDE, h=8 * i, w=64) for n in (1, 64) for i in range(1, 500)])
    query = ask(64)
    tuned.choose(query)
    before = tuned._choose.cache_info().hits
    seconds = min(timeit.repeat(lambda: tuned.choose(query), number=1000, repeat=5)) / 1000
    assert tuned._choose.cache_info().hits == before + 5000
    assert seconds < 50e-6


# --- files


BROKEN = [
    ("{", "is not JSON"),
    ("[]", "is no table of tiles"),
    ('{"schema": 1}', "is no table of tiles"),
    ('{"schema": 2, "entries": []}', "schema: got 2, this version of vggfast reads 1"),
    ('{"entries": []}', "schema: got None"),
    ('{"schema": 1, "entries": [7]}', "entry 0: got 7, it must be an object"),
    ("\0", "is not JSON"),
]
BAD_FIELDS = [
    ("n", 0, "positive and whole"), ("n", 1.5, "positive and whole"),
    ("n", True, "positive and whole"),
    ("ms", -1, "positive"), ("ms", "fast", "positive"), ("ms", None, "positive"),
    ("pool", 1, "true or false"), ("tile", [1], "an object"), ("gpu", 90, "a text"),
    ("rule_ms", 0, "positive"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "reason"), BROKEN, ids=[t for t, _ in BROKEN])
def test_a_broken_file_is_told_and_ignored(user: Any, text: str, reason: str) -> None:
    path = user([])
    path.write_text(text)
    tuned.reload()
    with pytest.warns(UserWarning, match="vggfast ignores") as caught:
        assert tuned.choose(ask(64)) == tuned.rule(ask(64))
    (message,) = (str(w.message) for w in caught)
    assert message.startswith(f"vggfast ignores {path}: ")
    assert reason in message
    assert "\n" not in message
    assert tuned.choose(ask(65)) == tuned.rule(ask(65))  # and says so once
    assert f"your table is ignored ({path}: " in tuned.explained(H100)
    assert path.read_text() == text


@pytest.mark.parametrize(("name", "value", "allowed"), BAD_FIELDS)
def test_a_bad_entry_is_named(name: str, value: object, allowed: str, tmp_path: Path) -> None:
    good = measured(64, WIDE).as_dict()
    path = tmp_path / "tiles.json"
    path.write_text(table_file.render([good, {**good, "op": "x", name: value}], ""))
    with pytest.raises(TableError) as caught:
        table_file.read(path)
    assert str(caught.value) == (f"{path}: entry 1: {name}: got {value!r}, it must be {allowed}")


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        table_file.read(tmp_path)
    assert table_file.read(tmp_path / "none").entries == ()


def test_an_unknown_tile_is_stale(user: Any) -> None:
    """Of another version: it has a field, a size or a kernel that this one does not have."""
    good = measured(64, WIDE).as_dict()
    strange = [
        {**good, "n": 128, "tile": {**good["tile"], "swizzle": 3}},
        {**good, "n": 256, "tile": {**good["tile"], "bc": 96}},
        {**good, "n": 512, "tile": {**good["tile"], "box": [[1], 8, 16]}},
        {**good, "n": 1024, "tile": {}},
    ]
    path = user([])
    path.write_text(table_file.render([good, *strange], ""))
    table = table_file.read(path)
    assert [e.shape.n for e in table.entries] == [64]
    assert {key[1].n for key, _ in table.stale} == {128, 256, 512, 1024}
    tuned.reload()
    assert "yours (1 entry, 1 for this GPU, 4 stale" in tuned.explained(H100)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    entries = [
        measured(64, WIDE), measured(9, SQUARE, rule_ms=None), measured(1, WIDE, op="dgrad"),
        measured(1, WIDE, gpu=Gpu("9.0", 'a "name"')),
    ]  # fmt: skip
    path = tmp_path / "t.json"
    write(path, *entries)
    assert set(table_file.read(path).entries) == set(entries)
    lines = path.read_text().splitlines()
    assert sum('"op"' in line for line in lines) == len(entries)  # an entry a line
    write(path, *reversed(entries))
    assert path.read_text().splitlines() == lines


def test_the_shipped_table_is_whole() -> None:
    """Nothing in it is stale, and what it says it says of GPUs, not of the interpreter."""
    text = json.loads(table_file.SHIPPED.read_text())
    table = table_file.read(table_file.SHIPPED)
    assert len(table.entries) == len(text["entries"])
    assert text["note"]
    assert all(e.gpu.capability[0].isdigit() for e in table.entries)


def test_fields_of_a_tile_are_serialised_by_themselves() -> None:
    """A field that is added later, with a default, is written only where it differs."""

    @dataclass(frozen=True)
    class Later(tiles.Tile):
        swizzle: int = 1
        order: str = "rows"

    plain = Later(**{**WIDE.as_dict(), "box": WIDE.box})
    assert plain.as_dict() == WIDE.as_dict()
    other = replace(plain, swizzle=4, order="columns")
    assert other.as_dict() == {**WIDE.as_dict(), "swizzle": 4, "order": "columns"}
    assert Later.from_dict(json.loads(json.dumps(other.as_dict()))) == other
    assert Later.from_dict(WIDE.as_dict()) == plain
    with pytest.raises(ValueError, match="a tile has no field order, swizzle"):
        tiles.Tile.from_dict(other.as_dict())
    with pytest.raises(ValueError, match="a tile lacks bits, stages"):
        tiles.Tile.from_dict(
            {k: v for k, v in WIDE.as_dict().items() if k not in ("bits", "stages")}
        )
    assert all(tiles.Tile.from_dict(t.as_dict()) == t for t in tiles.table())


def test_where_the_user_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VGGFAST_CACHE", str(tmp_path))
    assert table_file.user_path() == tmp_path / "tiles.json"
    monkeypatch.setenv("VGGFAST_CACHE", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert table_file.user_path() == tmp_path / "x" / "tiles.json"
    monkeypatch.delenv("VGGFAST_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert table_file.user_path() == tmp_path / ".cache" / "vggfast" / "tiles.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert table_file.user_path() == tmp_path / "c" / "vggfast" / "tiles.json"


def test_explain_says_which_tables_serve(user: Any, device: torch.device) -> None:
    path = user([])
    shown = explain(device, torch.float16, "triton")
    assert f"tiles: none of yours (python -m vggfast.tune writes {path}), then shipped" in shown
    user([measured(64, WIDE), measured(64, SQUARE, gpu=gpu.identity(device))], [measured(1, WIDE)])
    shown = explain(device, torch.float16, "triton")
    assert "tiles: yours (2 entries, " in shown
    assert f"{path}), then shipped (1 entry, " in shown
    assert shown.index("tiles:") < shown.index("maxpool2x2")
    assert "tiles:" not in explain("cpu", torch.float16, "eager")
