"""``python -m vggfast.tune`` on tiny layers: the whole path, what may go wrong, and its table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources
from triton_cases import GPU
from vggfast.kernels import table_file, tiles, tuned
from vggfast.kernels.launch import gpu
from vggfast.kernels.table_file import Entry, Gpu, Shape

from vggfast import InputError, configs
from vggfast.tune import cli, clock, problems, run, search, store

TINY = ["--net", "A", "--size", "32", "--batch", "1", "--dtype", "fp16"]


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A network of two small convolutions, two fprop tiles to choose from, few rounds."""
    monkeypatch.setenv("VGGFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(configs.CONFIGS, "A", (8, "M", 16))
    monkeypatch.setattr(search, "MOST", 3)
    monkeypatch.setattr(search, "HOPELESS", 5.0)
    real = tiles.candidates

    def two(kernel: str, arch: int, bits: int, ieee: bool = False) -> list[tiles.Tile]:
        """The two of the fewest multiplications on these layers, and of the smallest boxes."""

        def size(t: tiles.Tile) -> tuple[int, int]:
            return t.work((1, 16, 16), 16, 8), prod(t.box)

        return sorted(real(kernel, arch, bits, ieee), key=size)[:2]

    monkeypatch.setattr(tiles, "candidates", two)
    tiles._choose.cache_clear()
    tuned.reload()
    yield table_file.user_path()
    monkeypatch.undo()
    tiles._choose.cache_clear()
    tuned.reload()


class TileClock:
    """Says how long a call took by the tile that is forced, after running it."""

    caveat: str | None = None

    def __init__(self, ms: Callable[[tiles.Tile], float]) -> None:
        self.ms, self.work, self.calls = ms, 0, 0

    def measure(self, work: Callable[[], object]) -> list[float]:
        self.calls += 1
        kernels = ("fprop", "wgrad", "first", "first_wgrad")
        forced = [t for t in map(tiles.forced_for, kernels) if t is not None]
        assert len(forced) == 1
        return [self.ms(forced[0])]

    def wait(self) -> None:
        if GPU:
            torch.cuda.synchronize()


def use(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "clock_for", lambda device: found)


def test_the_whole_path(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Real calls, really timed, in each op: the table is written and then serves."""
    assert cli.main([*TINY, "--seconds", "60", "--layers", "conv2_1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert "3 problems, 60 s" in lines[0]
    if not GPU:
        assert "mean nothing" in lines[1]
    sizes = "1x16x16 8->16 (conv2_1): "
    for i, op in enumerate(problems.OPS):
        assert any(line.startswith(f"[{i + 1}/3] {op} {sizes}") for line in lines), op
    assert "skipped" not in out
    assert lines[-1].startswith("3 measured in ")
    table = table_file.read(tiny)
    assert sorted(e.op for e in table.entries) == sorted(problems.OPS)
    device = torch.device("cuda", 0) if GPU else torch.device("cpu")
    for e in table.entries:
        assert e.gpu == gpu.identity(device)
        assert (e.dtype, e.batch, e.shape.n, e.torch) == ("fp16", 1, 1, torch.__version__)
        assert e.ms > 0
        assert e.rule_ms is not None
    (problem,) = problems.problems(("A",), (1,), ("fprop",), torch.float16, 32, ("conv2_1",))
    query = problems.asked(problem, device)
    assert query is not None
    entry, source = tuned.source(query)
    assert entry in table.entries
    assert source is not None
    assert source.path == tiny


def test_the_fastest_is_kept(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(TileClock(lambda t: 1.0 if t.bk == 64 else 2.0), monkeypatch)
    argv = [*TINY, "--ops", "fprop", "--layers", "conv2_1"]
    assert cli.main(argv) == 0
    (entry,) = table_file.read(tiny).entries
    assert (entry.tile.bk, entry.ms, entry.rule_ms) == (64, 1.0, 2.0)
    assert "2.00x of the rule's fprop_" in capsys.readouterr().out
    # Measured again, the other way round: the entry is replaced. --out leaves the table in use.
    use(TileClock(lambda t: 3.0 if t.bk == 64 else 2.0), monkeypatch)
    other = tiny.with_name("other.json")
    assert cli.main([*argv, "--out", str(other)]) == 0
    assert table_file.read(other).entries[0].tile.bk == 16
    assert table_file.read(tiny).entries == (entry,)
    assert cli.main(argv) == 0
    (again,) = table_file.read(tiny).entries
    assert (again.tile.bk, again.ms, again.rule_ms) == (16, 2.0, 2.0)
    assert tiny.stat().st_mode & 0o777 == 0o644


def spoil(monkeypatch: pytest.MonkeyPatch, bk: int, how: Callable[[Tensor], Tensor]) -> None:
    """Whatever runs with a tile of ``bk`` gives another result."""
    real = problems.Data.ours

    def ours(self: problems.Data) -> Tensor:
        forced, y = tiles.forced_for("fprop"), real(self)
        return how(y) if forced is not None and forced.bk == bk else y

    monkeypatch.setattr(problems.Data, "ours", ours)


@pytest.mark.parametrize("bk", [16, 64])
def test_a_wrong_tile_is_never_kept(
    bk: int, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rule's (bk 16) against torch, or another against the rule's; the fastest of all."""
    use(TileClock(lambda t: 1.0 if t.bk == bk else 2.0), monkeypatch)
    spoil(monkeypatch, bk, lambda y: y * 1.01)
    assert cli.main([*TINY, "--ops", "fprop", "--layers", "conv2_1"]) == 1
    out, err = capsys.readouterr()
    assert "its result is 1.0e-02 from " in out or "its result is 9.9e-03 from " in out
    assert err == "error: 1 candidates gave wrong results, see above\n"
    (entry,) = table_file.read(tiny).entries
    assert entry.tile.bk != bk
    assert (entry.rule_ms is None) == (bk == 16)


def test_not_a_number_is_wrong(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(TileClock(lambda t: 1.0), monkeypatch)
    spoil(monkeypatch, 16, lambda y: y * float("nan"))
    assert cli.main([*TINY, "--ops", "fprop", "--layers", "conv2_1"]) == 1
    assert [e.tile.bk for e in table_file.read(tiny).entries] == [64]


def test_a_tile_that_does_not_run_is_told_and_skipped(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(TileClock(lambda t: 1.0), monkeypatch)

    def fail(y: Tensor) -> Tensor:
        raise OutOfResources(300000, 232448, "shared memory")

    spoil(monkeypatch, 64, fail)
    assert cli.main([*TINY, "--ops", "fprop", "--layers", "conv2_1"]) == 0
    assert (
        "_64x64: it needs 300000 of shared memory, this GPU has 232448" in capsys.readouterr().out
    )
    assert [e.tile.bk for e in table_file.read(tiny).entries] == [16]


def test_nothing_runs(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: problems.Data) -> Tensor:
        raise ValueError("no\nsuch thing")

    real = problems.asked
    device = torch.device("cuda", 0) if GPU else torch.device("cpu")
    chosen = problems.problems(("A",), (1,), ("fprop",), torch.float16, 32, ("conv2_1",))
    query = real(chosen[0], device)
    monkeypatch.setattr(problems, "asked", lambda problem, device: query)
    monkeypatch.setattr(problems.Data, "ours", fail)
    assert cli.main([*TINY, "--ops", "fprop", "--layers", "conv2_1"]) == 1
    out, err = capsys.readouterr()
    assert out.count(": ValueError: no\n") == 2
    assert err == "error: nothing could be measured\n"
    assert not tiny.exists()


def test_an_interruption_keeps_what_was_measured(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(TileClock):
        def measure(self, work: Callable[[], object]) -> list[float]:
            if self.calls == 2 * 3:  # the first problem has had its rounds
                raise KeyboardInterrupt
            return super().measure(work)

    use(Interrupted(lambda t: 1.0), monkeypatch)
    assert cli.main([*TINY, "--ops", "fprop,wgrad", "--layers", "conv2_1"]) == 130
    assert capsys.readouterr().err == (f"error: interrupted; what was measured is kept in {tiny}\n")
    assert [e.op for e in table_file.read(tiny).entries] == ["fprop"]


def test_the_budget(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is begun after it; what was not reached is said."""

    class Slow(TileClock):
        def measure(self, work: Callable[[], object]) -> list[float]:
            time.sleep(0.4)
            return super().measure(work)

    # On a GPU a first call compiles for seconds, which is not what this is about.
    use(TileClock(lambda t: 1.0), monkeypatch)
    argv = [*TINY, "--ops", "fprop"]
    assert cli.main([*argv, "--out", str(tiny.with_name("other.json"))]) == 0
    capsys.readouterr()
    monkeypatch.setattr(search, "MOST", 1000)
    use(Slow(lambda t: 1.0), monkeypatch)
    started = time.monotonic()
    code = cli.main([*argv, "--seconds", "4"])
    assert time.monotonic() - started < 5.5
    err = capsys.readouterr().err
    measured = len(table_file.read(tiny).entries)
    assert code == (0 if measured else 1)
    if measured < 2:
        assert f"--seconds 4 did not suffice for {2 - measured} problems" in err
    else:
        assert err == ""


def test_a_deadline_leaves_room_for_the_longest_step() -> None:
    deadline = search.Deadline(time.monotonic() + 100)
    with deadline.step():
        time.sleep(0.01)
    assert 0.01 <= deadline.longest < 50
    deadline.longest = 101
    with pytest.raises(search.OutOfTimeError), deadline.step():
        pass


def test_a_dry_run_measures_nothing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "tune", None)
    assert cli.main([*TINY, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "fprop 1x32x32 3->8 pool (conv1_1): 2 to time, 0 pruned"
    assert lines[1].startswith("    rule: first_sm")
    assert sum("to time" in line for line in lines) == 5
    assert not tiny.exists()


def test_noise_is_no_reason_to_change() -> None:
    rule, other = tiles.table()[:2]
    steady, noisy = [1.0] * 6, [0.9, 1.1, 0.95, 1.06, 0.9, 1.05]
    assert search._fastest({rule: steady, other: noisy}, rule) == rule
    assert search._fastest({rule: steady, other: [0.995] * 6}, rule) == rule
    assert search._fastest({rule: steady, other: [0.97] * 6}, rule) == other
    assert search._fastest({rule: steady, other: [1.2] * 6}, rule) == rule


def test_what_is_hopeless() -> None:
    """Counted: the products of the busiest multiprocessor, splits and all waste included."""

    def query(n: int, kernel: str = "fprop") -> tuned.Query:
        return tuned.Query(kernel, 90, 16, (n, 14, 14), 512, 512, kernel, False, "bf16", None)

    many, _ = search.promising(query(256), 132)
    assert {t.box for t in many} >= {(32, 2, 2), (8, 4, 4), (1, 8, 16)}
    one, pruned = search.promising(query(1), 132)
    able = [t for t in tiles.candidates("fprop", 90, 16) if tuned.runs(t, query(1))]
    assert pruned == len(able) - len(one) > 0
    assert one[0] == tuned.rule(query(1))
    costs = {(t.box, t.bc, t.bk): search.cost(t, query(1), 132) for t in able}
    # 2 boxes x 8 blocks of 64 channels, of whose 72 steps each of 8 programs does 9.
    assert costs[(1, 8, 16), 64, 64] == min(costs.values()) == 9 * 128 * 64 * 64
    # 2 x 4 tiles: 15 programs of 5 steps each.
    assert costs[(1, 8, 16), 128, 64] == 5 * 128 * 128 * 64
    # Eight images in a box are 16 boxes of one, 64 tiles for 132 multiprocessors: 2 programs each.
    assert costs[(8, 4, 4), 128, 64] == 36 * 128 * 128 * 64
    assert (8, 4, 4) not in {t.box for t in one}
    image, _ = search.promising(query(1, "wgrad"), 132)
    assert all(t.box[0] == 1 for t in image)


def test_a_pool_has_only_tiles_that_pool() -> None:
    query = tuned.Query(
        "fprop", 90, 16, (64, 28, 28), 512, 512, "fprop", False, "bf16", None
    )  # fmt: skip
    plain, _ = search.promising(query, 132)
    pooled, _ = search.promising(query._replace(pool=True), 132)
    assert not all(t.pools for t in plain)
    assert pooled
    assert all(t.pools for t in pooled)
    assert pooled[0] == tuned.rule(query._replace(pool=True))


def test_gluon_tiles_are_tried_where_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    query = tuned.Query(
        "fprop", 90, 16, (64, 56, 56), 256, 256, "fprop", False, "bf16", Gpu("9.0", "an H100")
    )  # fmt: skip
    for absent, there in ((None, True), ("no Gluon", False)):
        monkeypatch.setattr(tuned.gluon_plan, "absent", lambda absent=absent: absent)
        chosen, _ = search.promising(query, 132)
        assert any(t.form == "gluon" for t in chosen) == there
        assert chosen[0].form == "loop"


def test_the_first_layer_has_tiles_of_its_own() -> None:
    device = torch.device("cuda", 0) if GPU else torch.device("cpu")
    ops = ("fprop", "wgrad")
    found = problems.problems(("A", "D"), (2,), ops, torch.float16, 32, ("conv1_1",))
    asked = [problems.asked(p, device) for p in found]
    keys = [(q.kernel, q.op, q.pool, q.pixels, q.c_in) for q in asked if q is not None]
    # A's has a pool and D's has none, but a weight gradient that is given dz sees no pool.
    assert keys == [
        ("first", "first", True, (2, 32, 32), 3),
        ("first", "first", False, (2, 32, 32), 3),
        ("first_wgrad", "first_wgrad", False, (2, 32, 32), 3),
    ]
    for query in asked:
        assert query is not None
        chosen, _ = search.promising(query, 132)
        assert {t.kernel for t in chosen} == {query.kernel}


def test_problems_of_networks() -> None:
    every = problems.problems(("A", "D", "E"), (1, 8), problems.OPS, torch.bfloat16)
    assert len(every) == 2 * len([p for p in every if p.batch == 1])
    keys = [(p.op, p.batch, p.layer) for p in every]
    assert len(set(keys)) == len(keys)
    assert not [p for p in every if p.op == "dgrad" and "conv1_1" in p.names]
    assert not [p for p in every if p.layer.pool and p.op != "fprop"]
    (third,) = [p for p in every if p.title.startswith("fprop 8x56x56 256->256 (")]
    assert third.names == ("conv3_2", "conv3_3")
    assert [p.batch for p in every] == sorted(p.batch for p in every)
    (only,) = problems.problems(("E",), (4,), ("wgrad",), torch.float16, 64, ("conv1_1",))
    assert (only.terms, only.layer.h) == (4 * 64 * 64, 64)


# --- the command line


BAD = [
    (["--net", "F"], "--net: got 'F', allowed are A, A-LRN, B, C, D, E"),
    (["--net", "A,,B"], "--net: got '', allowed are A,"),
    (["--batch", "0"], "--batch: got '0', allowed are whole numbers from 1 to 65536"),
    (["--batch", "1,x"], "--batch: got 'x'"),
    (["--dtype", "int8"], "--dtype: got 'int8', allowed are bf16, fp16, fp32"),
    (["--ops", "fprop,bprop"], "--ops: got 'bprop', allowed are fprop, dgrad, wgrad"),
    (["--layers", "conv6_1"], "--layers: got 'conv6_1', allowed are conv1_1,"),
    (["--size", "16"], "--size: got '16', allowed are whole numbers from 32"),
    (["--seconds", "0"], "--seconds: got '0'"),
    (["--colour"], "unrecognized arguments: --colour"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_argument(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "tiles.json"
    assert cli.main([*argv, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1
    assert not out.parent.exists()


@pytest.mark.skipif(GPU, reason="about a machine without a GPU")
def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--dtype", "bf16"]) == 2
    assert "interpreter multiplies bfloat16 wrongly" in capsys.readouterr().err
    monkeypatch.delenv("TRITON_INTERPRET")
    assert cli.main([]) == 2
    assert capsys.readouterr().err == (
        "error: tuning needs an NVIDIA GPU and Triton, but there is no NVIDIA GPU (nor "
        "TRITON_INTERPRET=1)\n"
    )


def test_a_table_that_cannot_be_used(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.parent.mkdir()
    tiny.write_text('{"schema": 9, "entries": []}')
    assert cli.main(TINY) == 2
    assert capsys.readouterr().err == (
        f"error: --out: {tiny}: schema: got 9, this version of vggfast reads 1; rename or delete "
        "it to start anew\n"
    )
    assert tiny.read_text() == '{"schema": 9, "entries": []}'
    assert cli.main([*TINY, "--out", str(tiny / "below")]) == 2
    assert capsys.readouterr().err.startswith("error: --out: ")


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name in ("net", "batch", "dtype", "ops", "layers", "size", "seconds", "dry-run", "out"):
        assert f"--{name} " in text


# --- the table


def entry(i: int, tile: tiles.Tile | None = None) -> Entry:
    return Entry(
        "fprop", Shape(1, i, i, 8, 8), Gpu("9.0", "a GPU"), "bf16", tile or tiles.table()[0], 1.0,
        1.0, 1, "3.6.0", "2.11.0", "2026-11-25T00:00:00+00:00",
    )  # fmt: skip


def test_tuners_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each add opens the lock anew, so threads exclude each other as processes do."""
    path = tmp_path / "tiles.json"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.add(path, [entry(i)]), range(1, 41)))
    assert {e.shape.h for e in table_file.read(path).entries} == set(range(1, 41))
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tiles.json.lock", "tiles.json"]


def test_a_newer_entry_replaces_its_key_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    first, second = tiles.table()[:2]
    assert store.add(path, [entry(1, first), entry(2, first)]) == 2
    assert store.add(path, [entry(1, second)]) == 2
    found = {e.shape.h: e.tile for e in table_file.read(path).entries}
    assert found == {1: second, 2: first}


def test_entries_of_another_version_stay(tmp_path: Path) -> None:
    """Of no use here, but that version may share the folder; a new measurement replaces one."""
    path = tmp_path / "tiles.json"
    strange = [entry(i).as_dict() for i in (1, 2)]
    for raw in strange:
        raw["tile"]["later"] = True
    path.write_text(table_file.render(strange, ""))
    assert store.add(path, [entry(2), entry(3)]) == 3
    kept = json.loads(path.read_text())["entries"]
    assert [(raw["h"], "later" in raw["tile"]) for raw in kept] == [
        (1, True),
        (2, False),
        (3, False),
    ]


def test_a_file_that_broke_meanwhile_is_left(tmp_path: Path) -> None:
    path = tmp_path / "tiles.json"
    path.write_text("[")
    with pytest.raises(table_file.TableError, match="is not JSON"):
        store.add(path, [entry(1)])
    assert path.read_text() == "["
    with pytest.raises(InputError, match=r"--out: .*; rename or delete it to start anew"):
        store.check(path, "--out")


@pytest.mark.skipif(not GPU, reason="CUDA events need a GPU")
def test_the_clock_of_a_gpu() -> None:
    device = torch.device("cuda", 0)
    x = torch.randn(2048, 2048, device=device)
    (small,), (large,) = (
        [sorted(clock.clock_for(device).measure(lambda n=n: [x @ x for _ in range(n)]))[2:3]]
        for n in (2, 20)
    )
    assert 4 * small[0] < large[0]
