"""Small real inputs: IDX files, and folders of scikit-image's photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.train.helpers import write_idx

Image = pytest.importorskip("PIL.Image")
skimage_data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="session")
def pictures() -> dict[str, np.ndarray]:
    """Three photographs, (H, W, 3), uint8; wide, square, and tall."""
    return {
        "cat": skimage_data.chelsea(),  # 300 x 451
        "astronaut": skimage_data.astronaut()[::2, ::2].copy(),  # 256 x 256
        "coffee": skimage_data.coffee().transpose(1, 0, 2)[::2, ::2].copy(),  # 300 x 200
    }


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """IDX files of 20 training and 20 test images."""
    return write_idx(tmp_path / "idx")


@pytest.fixture
def photos(tmp_path: Path, pictures: dict[str, np.ndarray]) -> Path:
    """Two classes: three training and two validation images each, JPEG and PNG, wide."""
    root = tmp_path / "photos"
    for name, picture in (("astronaut", "astronaut"), ("cat", "cat")):
        for part, count in (("train", 3), ("val", 2)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                top = 40 * i + (90 if part == "val" else 0)
                cut = Image.fromarray(pictures[picture][top : top + 100, 50 : 170 + 10 * i])
                cut.save(folder / (f"{i}.png" if i == 1 else f"{i}.JPG"))
    return root
