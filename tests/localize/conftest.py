"""Narrow networks and small sets of digits on noise, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.train.helpers import narrow_nets, on_the_cpu
from vggfast.localization.networks import Options
from vggfast.localization.settings import BoxSettings
from vggfast.localize.cli import main

from .helpers import canvas_set, save_classifier


@pytest.fixture(autouse=True, scope="session")
def _on_the_cpu() -> Iterator[None]:
    """What names no device stays on the CPU, with a GPU beside too."""
    with contextmanager(on_the_cpu)(BoxSettings), contextmanager(on_the_cpu)(Options):
        yield


@pytest.fixture(autouse=True, scope="module")
def narrow() -> Iterator[None]:
    """An eighth of the channels and 32 units in an FC layer."""
    with pytest.MonkeyPatch.context() as patch:
        narrow_nets(patch)
        yield


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Layers this small gain nothing from a second thread."""


@pytest.fixture(scope="session")
def canvases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 40 validation images of 64 x 64, ten classes, in ILSVRC's layout."""
    return canvas_set(tmp_path_factory.mktemp("canvases") / "set", 60, 40)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> Path:
    """A network A for crops of 64 that names ten digits at random."""
    path = tmp_path_factory.mktemp("nets") / "classifier.safetensors"
    return save_classifier(path)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command with ``argv``: it must exit with 2 and print one line."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert main(list(argv)) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert printed.out == ""
        return printed.err

    return run
