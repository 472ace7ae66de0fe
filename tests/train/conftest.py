"""Small inputs for the training tests: IDX files and image folders, written afresh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vggfast.engine.settings import Settings
from vggfast.train.cli import main

from .helpers import narrow_nets, on_the_cpu, write_idx


@pytest.fixture(autouse=True, scope="session")
def _on_the_cpu() -> Iterator[None]:
    """A run that names no device stays on the CPU, with a GPU beside too: results are compared."""
    yield from on_the_cpu(Settings)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets with an eighth of their channels."""
    narrow_nets(monkeypatch)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """IDX files of 20 training and 20 test images."""
    return write_idx(tmp_path / "idx")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes cut from scikit-learn's two photographs: 3 training and 2 validation images."""
    image = pytest.importorskip("PIL.Image")
    samples = pytest.importorskip("sklearn.datasets").load_sample_images().images
    root = tmp_path / "photos"
    for name, pixels in zip(("china", "flower"), samples, strict=True):
        for part, count in (("train", 3), ("val", 2)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                top = 60 * i + (180 if part == "val" else 0)
                cut = image.fromarray(pixels[top : top + 100, 50 : 50 + 120 + 10 * i])
                cut.save(folder / (f"{i}.png" if i == 1 else f"{i}.JPG"), format=None)
    return root


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., str]:
    """Run the command with ``argv``: it must exit with 2, print one line, and write no run."""

    def run(*argv: str) -> str:
        out = tmp_path / "never"
        options = list(argv) if "--out" in argv else [*argv, "--out", str(out)]
        assert main(options) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert printed.err.endswith("\n")
        assert not out.exists()
        return printed.err

    return run
