"""Whole images: what is opened is what is stored, for every kind of set."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vggfast.data import BadImageError, load, open_images
from vggfast.data.idx import read_idx
from vggfast.errors import InputError


def test_digits_are_scikit_learns():
    val, train = open_images("digits"), open_images("digits", "train")
    assert (len(val), len(train)) == (360, 1437)
    assert val.classes == tuple("0123456789")
    stored = {(x * 255 / 16).round().astype(np.uint8).tobytes() for x in load_digits().images}
    for i in (0, 17, 359, -1):
        image, label = val[i]
        assert (image.mode, image.size) == ("RGB", (8, 8))
        assert np.asarray(image)[..., 2].tobytes() in stored
        assert label == val.labels[i]
    assert np.array_equal(np.asarray(val[-1][0]), np.asarray(val[359][0]))
    with pytest.raises(IndexError):
        val[360]


def test_the_parts_are_those_of_training():
    data = load("digits", size=8, scale=(8, 8))
    for part, samples in (("val", data.val), ("train", data.train)):
        raw = samples.read([(i, 0) for i in range(len(samples))])
        images = open_images("digits", part)
        assert raw.labels.tolist() == images.labels
        if part == "val":  # without augmentation
            x = raw.images * data.std[0] + data.mean[0]
            pixels = np.stack([np.asarray(image)[..., 0] for image, _ in images])
            assert np.abs(x.numpy() - pixels).max() <= 0.501


def test_idx_images(idx_folder):
    images = open_images(f"fashion-mnist:{idx_folder}", limit=4)
    assert (len(images), images.name(1)) == (4, "5")
    stored = read_idx(idx_folder / "t10k-images-idx3-ubyte")
    for i, row in enumerate((0, 5, 10, 15)):
        image, label = images[i]
        assert np.array_equal(np.asarray(image), stored[row][..., None].repeat(3, 2))
        assert label == row % 10
    assert images.classes[0] == "T-shirt/top"


def test_folder_images(photos):
    images = open_images(str(photos), "val")
    assert [images.name(i) for i in range(4)] == [
        "val/astronaut/0.JPG", "val/astronaut/1.png", "val/cat/0.JPG", "val/cat/1.png",
    ]  # fmt: skip
    assert [label for _, label in images] == [0, 0, 1, 1]
    for i in range(4):
        with Image.open(photos / images.name(i)) as stored:
            assert np.array_equal(np.asarray(images[i][0]), np.asarray(stored))
    few = open_images(str(photos), "train", limit=2)
    assert [few.name(i) for i in range(2)] == ["train/astronaut/0.JPG", "train/cat/0.JPG"]
    assert list(few.labels) == [0, 1]


def test_a_folder_of_validation_images_alone(photos):
    shutil.rmtree(photos / "train")
    assert open_images(str(photos)).classes == ("astronaut", "cat")
    with pytest.raises(InputError, match=r"no folder .*train"):
        open_images(str(photos), "train")


def test_class_folders_that_differ(photos):
    shutil.copytree(photos / "val" / "cat", photos / "val" / "dog")
    for call in (
        lambda: open_images(str(photos)),
        lambda: load(str(photos), size=32, scale=(32, 32)),
    ):
        with pytest.raises(InputError, match="differ in class 'dog'; allowed are the same"):
            call()


def test_an_image_that_cannot_be_read_is_named(photos):
    images = open_images(str(photos))
    (photos / "val" / "cat" / "0.JPG").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(BadImageError, match=r"val/cat/0\.JPG"):
        images[2]
    (photos / "val" / "cat" / "0.JPG").unlink()
    with pytest.raises(BadImageError, match=r"val/cat/0\.JPG \(No such file"):
        images[2]
    images[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"data": ""}, "imagenet:DIR"), ({"data": "nowhere"}, "no folder nowhere"),
     ({"data": "digits", "part": "test"}, "part: got 'test'"),
     ({"data": "digits", "limit": 0}, "limit: got 0"), ({"data": "mnist:"}, "mnist:DIR")],
)  # fmt: skip
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        open_images(**arguments)
