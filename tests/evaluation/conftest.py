"""Narrow networks, and small sets of photographs of several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.train.helpers import narrow_nets, on_the_cpu
from vggfast.evaluate.cli import main
from vggfast.evaluation.settings import Settings

from .helpers import CLASSES, save_net


@pytest.fixture(autouse=True, scope="session")
def _on_the_cpu() -> Iterator[None]:
    """An evaluation that names no device stays on the CPU, with a GPU beside too."""
    yield from on_the_cpu(Settings)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the channels and 32 units in an FC layer; ``monkeypatch.undo()`` ends it."""
    narrow_nets(monkeypatch)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Layers this small gain nothing from a second thread."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes, seven pictures, as PNG: three sizes, one of them smaller than the crop."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(3)
    sizes = [(50, 40), (40, 50), (50, 40), (20, 27), (50, 40), (40, 50), (64, 64)]
    for i, (width, height) in enumerate(sizes):
        folder = tmp_path / "photos" / "val" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        pixels = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
        image.fromarray(pixels).save(folder / f"{i}.png")
        training = tmp_path / "photos" / "train" / CLASSES[i % 3]
        training.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels[::-1].copy()).save(training / f"{i}.png")
    return tmp_path / "photos"


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A network's file for the classes of ``photos``: A, crop 32, trained at S = 37."""
    return save_net(tmp_path / "a.safetensors", "A", seed=1)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return save_net(tmp_path / "b.safetensors", "B", seed=2)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command with ``argv``: it must exit with 2 and print one line."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main([*argv, "--quiet"]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert printed.out == ""
        return printed.err

    return run
