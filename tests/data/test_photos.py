"""Photographs as samples: augmentation by key, and images that cannot be read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from vggfast.data import Batches, DataSet, load
from vggfast.data.decode import Photograph
from vggfast.data.transforms import TrainCrop
from vggfast.errors import InputError

SIZE, SCALE = 32, (40, 80)


def loaded(photos, **options) -> DataSet:
    return load(str(photos), size=SIZE, scale=SCALE, **options)


def everything(batches: Batches, epoch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(x), torch.cat(y)


def spoil(photos, *names: str) -> None:
    for name in names:
        path = photos / name
        path.write_bytes(path.read_bytes()[:300])


def test_a_sample_is_the_formula_of_its_key(photos):
    """Crop, flip, shift and normalisation of one key, computed by hand in NumPy."""
    data = loaded(photos, rgb_shift="imagenet")
    samples = data.train
    values = np.array([0.2175, 0.0188, 0.0045]) * 255
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    flips = set()
    for draw in range(12):
        raw = samples.read([(4, draw)])
        x = samples.finish(raw, torch.device("cpu"))[0]
        path = photos / "train" / "cat" / "1.png"
        photograph = Photograph(path.read_bytes(), "x")
        window = TrainCrop(SIZE, SCALE, True).plan(draw, photograph.size)
        crop = photograph.crop(window).astype(float)
        crop = crop[:, ::-1] if window.flip else crop
        want = (crop - data.mean + vectors @ (values * window.alphas)) / data.std
        assert np.allclose(x.permute(1, 2, 0), want, atol=1e-5)
        assert raw.labels.tolist() == [1]
        flips.add(window.flip)
    assert flips == {False, True}


def test_epochs_do_not_depend_on_workers_or_batches(photos):
    data = loaded(photos, rgb_shift="train", workers=1)
    again = loaded(photos, rgb_shift="train")
    assert (data.mean, data.std) == (again.mean, again.std)
    x, y = everything(Batches(data.train, 2, shuffle=True, seed=3))
    for batches in (
        Batches(again.train, 2, shuffle=True, seed=3, workers=2),
        Batches(data.train, 5, shuffle=True, seed=3, workers=1),
    ):
        other, labels = everything(batches)
        assert torch.equal(x, other)
        assert torch.equal(y, labels)
    assert not torch.equal(x, everything(Batches(data.train, 2, shuffle=True, seed=3), 2)[0])


def test_the_shift_is_the_training_set_s_unless_named_otherwise(photos):
    plain, own, published = (
        loaded(photos, rgb_shift=how).train.read([(0, 9)]) for how in ("none", "train", "imagenet")
    )
    assert plain.shifts is None
    assert own.shifts is not None
    assert published.shifts is not None
    assert torch.equal(plain.images, own.images)
    assert not torch.allclose(own.shifts, published.shifts)
    assert 0 < own.shifts.abs().max() < 60


def test_samples_can_be_sent_to_a_process_that_is_not_forked(photos):
    samples = loaded(photos, rgb_shift="train").train
    raw, copy = (s.read([(3, 5)]) for s in (samples, pickle.loads(pickle.dumps(samples))))
    assert torch.equal(raw.images, copy.images)


def test_validation_is_not_augmented(photos):
    data = loaded(photos, rgb_shift="train")
    raw = data.val.read([(0, 1), (0, 2)])
    assert torch.equal(raw.images[0], raw.images[1])
    assert raw.flips is not None
    assert not raw.flips.any()
    assert raw.shifts is None


def test_mean_and_deviation_are_the_centre_crops(photos):
    data = loaded(photos)
    pixels = []
    for path in sorted((photos / "train").rglob("*.*")):
        image = Image.open(path).convert("RGB")
        w, h = (max(60, round(side * 60 / min(image.size))) for side in image.size)
        left, top = (w - SIZE) // 2, (h - SIZE) // 2
        whole = image.resize((w, h), Image.Resampling.BILINEAR)
        pixels.append(np.asarray(whole.crop((left, top, left + SIZE, top + SIZE))).reshape(-1, 3))
    assert np.allclose(data.mean, np.concatenate(pixels).mean(0), atol=0.1)
    assert np.allclose(data.std, np.concatenate(pixels).std(0), atol=0.1)


def test_fail_names_the_file_when_the_set_is_loaded_or_read(photos):
    data = loaded(photos)
    spoil(photos, "val/cat/0.JPG", "train/cat/0.JPG")
    with pytest.raises(InputError, match=r"train/cat/0\.JPG"):
        loaded(photos)
    for samples in (data.train, data.val):
        with pytest.raises(InputError, match=r"cat/0\.JPG"):
            everything(Batches(samples, 2, shuffle=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_replaces_in_training_and_leaves_out_of_validation(photos, workers):
    spoil(photos, "val/cat/1.png", "train/astronaut/2.JPG", "train/cat/0.JPG")  # 2 and 3 of 0..5
    data = loaded(photos, on_bad_image="skip", workers=workers)
    batches = Batches(data.train, 2, shuffle=True, workers=workers)
    order = [key for step in batches._steps for key in step]
    x, y = everything(batches, 0)
    assert [len(part) for _, part in batches.epoch(0)] == [2, 2, 2]
    assert batches.skipped == 2
    assert set(batches.bad) == {"train/astronaut/2.JPG", "train/cat/0.JPG"}
    assert all("cannot read image" in reason for reason in batches.bad.values())
    # In their places stands image 4 with their draws.
    taken = [(4 if i in (2, 3) else i, draw) for i, draw in order]
    want = data.train.finish(data.train.read(taken), torch.device("cpu"))
    assert torch.equal(x, want)
    assert y.tolist() == [int(i >= 3) for i, _ in taken]
    val = Batches(data.val, 3, shuffle=False, workers=workers)
    assert [part.tolist() for _, part in val.epoch()] == [[0, 0, 1], []]
    assert (val.skipped, list(val.bad)) == (1, ["val/cat/1.png"])


def test_the_next_image_after_the_last_is_the_first(photos):
    spoil(photos, "train/cat/1.png", "train/cat/2.JPG", "train/astronaut/0.JPG")
    data = loaded(photos, on_bad_image="skip")
    raw = data.train.read([(4, 7), (1, 8)])
    alone = data.train.read([(1, 7), (1, 8)])
    assert torch.equal(raw.images, alone.images)
    assert raw.labels.tolist() == [0, 0]
    assert (raw.skipped, len(raw.bad)) == (1, 3)


def test_nothing_readable_is_an_error(photos):
    data = loaded(photos, on_bad_image="skip")
    spoil(photos, *(str(p.relative_to(photos)) for p in (photos / "train").rglob("*.*")))
    with pytest.raises(InputError, match=r"none of 6 images can be read, e\.g\. train/"):
        everything(Batches(data.train, 2, shuffle=True))
    with pytest.raises(InputError, match=r"none of 6 training images can be read, e\.g\. train/"):
        loaded(photos, on_bad_image="skip")


def test_odd_images_are_trained_on(photos):
    folder = photos / "train" / "cat"
    Image.new("L", (1, 1), 9).save(folder / "pixel.png")
    Image.new("CMYK", (3, 90)).save(folder / "inks.jpg")
    Image.fromarray(np.full((5, 1), 40000, np.uint16)).save(folder / "deep.png")
    data = loaded(photos)
    x, y = everything(Batches(data.train, 4, shuffle=True))
    assert x.shape == (9, 3, SIZE, SIZE)
    assert x.isfinite().all()
    assert sorted(y.tolist()) == [0] * 3 + [1] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rgb_shift": "pca"}, "rgb_shift: got 'pca', allowed are none, train, imagenet"),
     ({"on_bad_image": "ignore"}, "on_bad_image: got 'ignore', allowed are fail, skip")],
)  # fmt: skip
def test_bad_arguments(photos, options, message):
    with pytest.raises(InputError, match=message):
        loaded(photos, **options)
    if "rgb_shift" in options:
        with pytest.raises(InputError, match="it is grey"):
            load("digits", size=32, scale=(32, 32), rgb_shift="train")
