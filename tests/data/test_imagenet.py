"""ILSVRC-2012's layouts, with a kit of three classes written by SciPy."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggfast.data import Batches, load, open_images, parse_spec
from vggfast.errors import InputError

io = pytest.importorskip("scipy.io")

# The kit's number, WordNet's, words; in another order than the sorted one. The last is no leaf.
SYNSETS = (
    (1, "n02100", "cat, true cat", 0),
    (2, "n01900", "astronaut", 0),
    (3, "n02000", "coffee", 0),
    (1001, "n00001", "entity", 3),
)
TRUTH = [3, 1, 2, 1]
CLASSES = ("n01900", "n02000", "n02100")


@pytest.fixture
def root(tmp_path, pictures) -> Path:
    root = tmp_path / "ilsvrc"
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kind = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    io.savemat(kit / "meta.mat", {"synsets": np.array(list(SYNSETS), kind)})
    truth = "".join(f"{i}\n" for i in TRUTH)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
    pixels = {1: pictures["cat"], 2: pictures["astronaut"], 3: pictures["coffee"]}
    for number, wnid, *_ in SYNSETS[:3]:
        (root / "train" / wnid).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(pixels[number]).save(root / "train" / wnid / f"{wnid}_{i}.JPEG")
    (root / "val").mkdir()
    for i, number in enumerate(TRUTH, 1):
        Image.fromarray(pixels[number]).save(root / "val" / f"ILSVRC2012_val_{i:08d}.JPEG")
    return root


def test_the_spec():
    assert parse_spec("imagenet:/data/x") == ("imagenet", "/data/x")
    with pytest.raises(InputError, match="imagenet:DIR with train/ and val/"):
        parse_spec("imagenet:")


def test_flat_validation_images_get_their_classes_from_the_kit(root, pictures):
    val = open_images(f"imagenet:{root}", "val")
    assert val.classes == CLASSES
    assert list(val.labels) == [1, 2, 0, 2]  # 3, 1, 2, 1 by the kit's numbers
    assert val.name(0) == "val/ILSVRC2012_val_00000001.JPEG"
    for i, name in enumerate(("coffee", "cat", "astronaut", "cat")):
        image, _ = val[i]
        assert image.size[::-1] == pictures[name].shape[:2]
    train = open_images(f"imagenet:{root}", "train")
    assert list(train.labels) == [0, 0, 1, 1, 2, 2]
    assert train.name(4) == "train/n02100/n02100_0.JPEG"


def test_without_training_images_validation_can_be_opened(root):
    shutil.rmtree(root / "train")
    assert open_images(f"imagenet:{root}", "val").classes == CLASSES
    with pytest.raises(InputError, match=r"no folder .*train"):
        load(f"imagenet:{root}", size=32, scale=(40, 40))


def test_validation_images_in_class_folders(root):
    shutil.rmtree(root / "ILSVRC2012_devkit_t12")
    with pytest.raises(InputError, match=r"no file .*meta\.mat; allowed are val/WNID"):
        open_images(f"imagenet:{root}")
    for i, number in enumerate(TRUTH, 1):
        folder = root / "val" / SYNSETS[number - 1][1]
        folder.mkdir(exist_ok=True)
        (root / "val" / f"ILSVRC2012_val_{i:08d}.JPEG").rename(folder / f"{i}.JPEG")
    val = open_images(f"imagenet:{root}")
    assert list(val.labels) == [0, 1, 2, 2]
    assert val.classes == CLASSES


def test_it_can_be_trained_on(root):
    data = load(f"imagenet:{root}", size=64, scale=(64, 80), rgb_shift="train")
    assert data.classes == CLASSES
    ((x, y),) = Batches(data.train, 8, shuffle=True).epoch()
    assert x.shape == (6, 3, 64, 64)
    assert sorted(y.tolist()) == [0, 0, 1, 1, 2, 2]
    assert len(data.val) == 4


def test_a_kit_that_does_not_fit(root):
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    for text, message in (
        ("1\n2\n", "holds 4 images, .* 2 classes"),
        ("1\n2\n3\n4\n", "class 4, which meta.mat has not"),
        ("1\n2\n3\nx\n", "cannot read"),
    ):
        truth.write_text(text)
        with pytest.raises(InputError, match=message):
            open_images(f"imagenet:{root}")
    (root / "train" / "n09999").mkdir()
    with pytest.raises(InputError, match="differ in class 'n09999'"):
        open_images(f"imagenet:{root}")
    (kit / "meta.mat").write_bytes(b"no MATLAB file" * 20)
    with pytest.raises(InputError, match="is not the kit's"):
        open_images(f"imagenet:{root}")
    with pytest.raises(InputError, match="no folder"):
        open_images("imagenet:/nowhere")
