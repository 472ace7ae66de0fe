"""Checkpoints: atomic, exact, and refused with one line when damaged."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vggfast.engine import checkpoint
from vggfast.errors import InputError


def small_state(epoch: int = 1) -> dict[str, Any]:
    state: dict[str, Any] = {name: {} for name in checkpoint.KEYS}
    state.update(format=checkpoint.FORMAT, epoch=epoch, model={"w": torch.arange(4000.0)})
    return state


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, small_state(3))
    state = checkpoint.load(path)
    assert state["epoch"] == 3
    assert torch.equal(state["model"]["w"], torch.arange(4000.0))
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError, RuntimeError])
def test_a_crash_while_writing_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, small_state(1))
    before = path.read_bytes()

    def half(state: object, target: Path) -> None:
        Path(target).write_bytes(before[:1000])
        raise failure("no space left")

    monkeypatch.setattr(torch, "save", half)
    as_told = InputError if failure in (OSError, RuntimeError) else failure
    with pytest.raises(as_told, match="no space left"):
        checkpoint.save(path, small_state(2))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_file_is_on_disk_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = checkpoint.os.fsync, checkpoint.os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", lambda f: (events.append("fsync"), fsync(f)))
    monkeypatch.setattr(
        checkpoint.os, "replace", lambda a, b: (events.append("replace"), replace(a, b))
    )
    checkpoint.save(tmp_path / "last.pt", small_state())
    assert events == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_keeps_its_content_when_the_source_is_saved_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError("no hard links here")

    if not links:
        monkeypatch.setattr(checkpoint.os, "link", refuse)
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for epoch in (1, 2):
        checkpoint.save(last, small_state(epoch))
        checkpoint.copy(last, best)
    checkpoint.save(last, small_state(3))
    assert checkpoint.load(best)["epoch"] == 2
    assert checkpoint.load(last)["epoch"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pt", "last.pt"]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.95, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, small_state())
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(InputError, match=r"resume: .*last\.pt") as raised:
        checkpoint.load(path)
    assert "\n" not in str(raised.value)


def test_a_flipped_bit_in_the_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, small_state())
    raw = bytearray(path.read_bytes())
    at = raw.index(np.arange(100, 140, dtype=np.float32).tobytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"last\.pt"):
        checkpoint.load(path)


class Evil:
    """Unpickling this would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched-by-a-checkpoint"),)


def test_other_files_are_refused_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "other.pt"
    for content in ({"model": {}}, [1, 2], {**small_state(), "format": 99}, {"a": Evil()}):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"resume: .*other\.pt"):
            checkpoint.load(path)
    with pytest.raises(InputError, match=r"resume: no file .*gone\.pt"):
        checkpoint.load(tmp_path / "gone.pt")
    assert not (tmp_path / "touched-by-a-checkpoint").exists()


def test_random_generators_continue_where_they_were(tmp_path: Path) -> None:
    def draws() -> list[float]:
        return [torch.rand(()).item(), float(np.random.rand()), random.random(), random.gauss(0, 1)]

    random.gauss(0, 1)  # leaves a cached value
    np.random.randn()
    checkpoint.save(tmp_path / "a.pt", {**small_state(), "rng": checkpoint.rng_state()})
    expected = draws()
    draws()
    checkpoint.set_rng_state(checkpoint.load(tmp_path / "a.pt")["rng"])
    assert draws() == expected
