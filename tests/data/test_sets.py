"""Data sets: what they hold, how they are augmented, and that order follows from seed and epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.helpers import idx_bytes
from vggfast.data import Batches, load
from vggfast.data.arrays import ArraySamples
from vggfast.data.base import Key
from vggfast.data.idx import read_idx
from vggfast.errors import InputError

NO_SCALE = (32, 32)


def everything(batches: Batches, epoch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(x), torch.cat(y)


def one(samples: ArraySamples, key: Key) -> tuple[torch.Tensor, int]:
    raw = samples.read([key])
    return samples.finish(raw, torch.device("cpu"))[0], raw.labels.item()


def test_digits_are_split_by_class_and_normalised() -> None:
    data = load("digits", size=32, scale=NO_SCALE)
    assert (len(data.train), len(data.val)) == (1437, 360)
    x, y = everything(Batches(data.val, 100, shuffle=False))
    assert x.shape == (360, 3, 32, 32)
    assert x.dtype == torch.float32
    assert torch.equal(x[:, 0], x[:, 2])
    assert y.bincount().min() >= 34  # a fifth of each class (174 to 183)
    assert y.bincount().max() <= 37
    train = data.train.images  # type: ignore[attr-defined]
    assert abs(train.mean().item()) < 1e-3
    assert train.std().item() == pytest.approx(1, rel=1e-3)
    assert train.max().item() * data.std[0] + data.mean[0] == pytest.approx(255, rel=1e-4)


def test_digits_held_out_images_are_not_trained_on() -> None:
    data = load("digits", size=32, scale=NO_SCALE)
    seen = {x.numpy().tobytes() for x in data.train.images}  # type: ignore[attr-defined]
    assert not seen & {x.numpy().tobytes() for x in data.val.images}  # type: ignore[attr-defined]


def test_limit_keeps_every_class() -> None:
    data = load("digits", size=32, scale=NO_SCALE, limit=200)
    _, y = everything(Batches(data.train, 64, shuffle=True))
    assert len(y) == 200
    assert y.bincount(minlength=10).min() >= 10


def test_an_epoch_depends_on_seed_and_number_only() -> None:
    data = load("digits", size=32, scale=NO_SCALE, limit=50)

    def epoch(number: int, seed: int = 3, workers: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        batches = Batches(data.train, 16, shuffle=True, seed=seed, workers=workers)
        return everything(batches, number)

    x, y = epoch(4)
    torch.rand(5)  # the global generator plays no part
    again, labels = epoch(4)
    assert torch.equal(x, again)
    assert torch.equal(y, labels)
    assert torch.equal(x, epoch(4, workers=2)[0])
    assert not torch.equal(x, epoch(5)[0])
    assert not torch.equal(x, epoch(4, seed=4)[0])


def test_shift_and_flip_move_pixels_as_said() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    plain = ArraySamples(image, torch.tensor([5]))
    assert torch.equal(one(plain, (0, 12345))[0][1], image[0, 0])
    moved = ArraySamples(image, torch.tensor([5]), shift=1, flip=True)
    seen = set()
    for draw in range(18):  # 3 rows x 3 columns x 2 mirrorings
        x, label = one(moved, (0, draw))
        assert (x.shape, label) == ((3, 8, 8), 5)
        dy, dx, mirrored = draw % 3 - 1, draw // 3 % 3 - 1, draw // 9
        rows = (torch.arange(8) + dy).clamp(0, 7)
        columns = (torch.arange(8) + dx).clamp(0, 7)
        expected = image[0, 0][rows][:, columns]
        assert torch.equal(x[0], expected.flip(-1) if mirrored else expected)
        seen.add(x.numpy().tobytes())
    assert len(seen) == 18


@pytest.mark.parametrize("place", ["", "fashion-mnist"])
def test_idx_files_plain_or_zipped(idx_folder: Path, place: str) -> None:
    if place:  # the layout of Debian's package, given its parent folder
        parent = idx_folder.parent / "datasets"
        parent.mkdir()
        idx_folder = idx_folder.rename(parent / place).parent
    data = load(f"fashion-mnist:{idx_folder}", size=32, scale=NO_SCALE)
    assert (len(data.train), len(data.val)) == (20, 20)
    assert data.classes[9] == "Ankle boot"
    x, y = everything(Batches(data.val, 7, shuffle=False))
    assert x.shape == (20, 3, 32, 32)
    assert y.tolist() == [i % 10 for i in range(20)]


def test_idx_values_survive(tmp_path: Path) -> None:
    array = np.random.default_rng(1).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    (tmp_path / "a").write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(tmp_path / "a"), array)


@pytest.mark.parametrize("cut", [0, 3, 9, 20, -1])
def test_a_cut_off_idx_file_is_refused(idx_folder: Path, cut: int) -> None:
    path = idx_folder / "t10k-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match="t10k-images-idx3-ubyte"):
        load(f"mnist:{idx_folder}", size=32, scale=NO_SCALE)


def test_a_cut_off_gzip_is_refused(idx_folder: Path) -> None:
    path = idx_folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz"):
        load(f"mnist:{idx_folder}", size=32, scale=NO_SCALE)


def test_idx_labels_and_images_must_match(idx_folder: Path) -> None:
    labels = idx_folder / "t10k-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(19)))
    with pytest.raises(InputError, match=r"\(19,\)"):
        load(f"mnist:{idx_folder}", size=32, scale=NO_SCALE)
    labels.write_bytes(idx_bytes(np.full(20, 10)))
    with pytest.raises(InputError, match="label 10"):
        load(f"mnist:{idx_folder}", size=32, scale=NO_SCALE)


def test_photographs_are_cropped_and_normalised(photos: Path) -> None:
    data = load(str(photos), size=64, scale=(72, 90))
    assert data.classes == ("astronaut", "cat")
    assert (len(data.train), len(data.val)) == (6, 4)
    x, y = everything(Batches(data.train, 4, shuffle=True, seed=1))
    assert x.shape == (6, 3, 64, 64)
    assert sorted(y.tolist()) == [0, 0, 0, 1, 1, 1]
    assert not torch.equal(x, everything(Batches(data.train, 4, shuffle=True, seed=2))[0])
    assert abs(x.mean().item()) < 0.6
    assert 0.6 < x.std().item() < 1.5
    assert all(1 < m < 254 for m in data.mean)


def test_a_corrupt_image_is_named_by_a_worker_too(photos: Path) -> None:
    data = load(str(photos), size=32, scale=NO_SCALE)
    bad = photos / "val" / "cat" / "0.JPG"
    bad.write_bytes(bad.read_bytes()[:600])
    for workers in (0, 1):
        with pytest.raises(InputError, match=r"cat/0\.JPG") as raised:
            everything(Batches(data.val, 3, shuffle=False, workers=workers))
        assert "\n" not in str(raised.value)
