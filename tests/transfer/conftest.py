"""Narrow networks, photographs of several sizes, and data sets of the benchmarks' layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.evaluation.helpers import save_net
from tests.train.helpers import narrow_nets, on_the_cpu
from vggfast.features.cli import main
from vggfast.transfer.settings import Settings

from .helpers import picture


@pytest.fixture(autouse=True, scope="session")
def _on_the_cpu() -> Iterator[None]:
    """An extraction that names no device stays on the CPU, with a GPU beside too."""
    yield from on_the_cpu(Settings)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the channels and 32 units in an FC layer."""
    narrow_nets(monkeypatch)


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Layers this small gain nothing from a second thread."""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return save_net(tmp_path / "a.safetensors", "A", seed=1)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return save_net(tmp_path / "b.safetensors", "B", seed=2)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images without classes, of three sizes, one of them smaller than the crop."""
    sizes = [(50, 40), (40, 50), (50, 40), (20, 27), (50, 40), (40, 50), (64, 64)]
    for i, size in enumerate(sizes):
        picture(tmp_path / "photos" / "abc"[i % 3] / f"{i}.png", size, seed=i)
    return tmp_path / "photos"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command with ``argv``: it must exit with 2 and print one line."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main(list(argv)) == 2
        printed = capsys.readouterr()
        lines = printed.err.splitlines()
        assert lines[-1].startswith("error: ")
        assert sum(line.startswith("error: ") for line in lines) == 1
        assert printed.out == ""
        return lines[-1]

    return run
