"""Training crops keep the object, and their targets are where the object is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vggfast.data.colour import Colours
from vggfast.data.source import Files
from vggfast.data.transforms import CentreCrop
from vggfast.errors import InputError
from vggfast.localization.boxes import decode
from vggfast.localization.crops import ObjectCrop, places
from vggfast.localization.readers import Boxes
from vggfast.localization.samples import BoxSamples

halves = st.integers(0, 80).map(lambda n: n / 2)


@given(halves, halves, st.integers(8, 40), st.integers(1, 40))
def test_places_are_those_that_contain_the_object(a: float, b: float, side: int, crop: int) -> None:
    low, high = sorted((min(a, side), min(b, side)))
    crop = min(crop, side)
    if low == high:
        return
    every = range(side - crop + 1)
    whole = [p for p in every if p <= low and high <= p + crop]
    within = [p for p in every if low <= p and p + crop <= high]
    first, last = places(low, high, side, crop)
    assert 0 <= first <= last <= side - crop
    if whole or within:
        assert list(range(first, last + 1)) == (whole or within)
    else:  # fractions of a pixel: less than one pixel is lost
        assert first == last
        lost = max(0, first - low) + max(0, high - first - crop)
        least = min(max(0, p - low) + max(0, high - p - crop) for p in every)
        assert lost < least + 1


def test_crops_differ_from_draw_to_draw() -> None:
    crop, box = ObjectCrop(32, (64, 64), flip=True), torch.tensor([20.0, 24, 30, 40])
    windows = [crop.plan(draw, (64, 64), box) for draw in range(400)]
    assert {w.left for w in windows} == set(range(0, 21))
    assert {w.top for w in windows} == set(range(8, 25))
    assert {w.flip for w in windows} == {True, False}
    assert crop.plan(7, (64, 64), box) == crop.plan(7, (64, 64), box)


@pytest.fixture
def rectangle(tmp_path: Path) -> BoxSamples:
    """A bright rectangle with its box on black, 90 x 120."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((120, 90, 3), np.uint8)
    pixels[30:70, 45:75] = 255
    image.fromarray(pixels).save(tmp_path / "a.png")
    source = Files(tmp_path, ("a.png",), (3,))
    boxes = Boxes([[(45.0, 30.0, 75.0, 70.0)]])
    return BoxSamples(source, ObjectCrop(64, (64, 90), flip=True), Colours(), boxes=boxes)


def test_targets_are_where_the_object_shows(rectangle: BoxSamples) -> None:
    """The tight box of what is bright in the crop, over scales, places and mirror images."""
    raw = rectangle.read([(0, draw) for draw in range(60)])
    assert raw.flips is not None
    assert raw.flips.any()
    assert not raw.flips.all()
    shown = rectangle.finish(raw, torch.device("cpu"))[:, 0] > 127
    assert raw.labels[:, 0].tolist() == [3] * 60
    boxes = decode(raw.labels[:, 1:], torch.zeros(2), 64)
    for bright, box in zip(shown, boxes, strict=True):
        rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        # Half a pixel by which the rescaled rectangle's edge is rounded.
        torch.testing.assert_close(box, torch.tensor(seen).float(), rtol=0, atol=0.51)


def test_the_centre_crop_takes_the_largest_box(rectangle: BoxSamples) -> None:
    boxes = Boxes([[(0.0, 0.0, 9.0, 9.0), (45.0, 30.0, 75.0, 70.0), (1.0, 1.0, 5.0, 5.0)]])
    samples = BoxSamples(rectangle.source, CentreCrop(64, (90, 90)), Colours(), boxes=boxes)
    target = samples.read([(0, 5)]).labels[0]
    # Shown at 90 x 120, the crop begins at (13, 28): its centre is at (45, 60).
    expected = [3, (60 - 45) / 32, (50 - 60) / 32, 30 / 32, 40 / 32]
    torch.testing.assert_close(target, torch.tensor(expected))


def test_each_of_several_boxes_is_drawn(rectangle: BoxSamples) -> None:
    boxes = Boxes([[(2.0, 2.0, 12.0, 12.0), (45.0, 30.0, 75.0, 70.0)]])
    samples = BoxSamples(rectangle.source, rectangle.crop, Colours(), boxes=boxes)
    targets = samples.read([(0, draw) for draw in range(20)]).labels
    square = (targets[:, 3] - targets[:, 4]).abs() < 0.01
    assert square.any()
    assert not square.all()


def test_a_box_that_leaves_its_image_is_refused(rectangle: BoxSamples) -> None:
    samples = BoxSamples(
        rectangle.source, rectangle.crop, Colours(), boxes=Boxes([[(45.0, 30.0, 91.0, 70.0)]])
    )
    with pytest.raises(InputError, match=r"leaves the image of 90 x 120 that .*a\.png has"):
        samples.read([(0, 0)])


def test_boxes_follow_an_image_that_was_rescaled(rectangle: BoxSamples) -> None:
    """Annotated at 181 x 241, which rounds to the 90 x 120 that there are."""
    boxes = Boxes([[(90.5, 60.25, 150.8, 140.6)]], [(181, 241)])
    found = boxes.within(0, (90, 120), "a.png")
    torch.testing.assert_close(
        found, torch.tensor([[45.0, 30, 75, 70]]).double(), atol=0.05, rtol=0
    )
    assert boxes.within(0, (181, 241), "a.png").tolist() == boxes[0].tolist()
    samples = BoxSamples(rectangle.source, rectangle.crop, Colours(), boxes=boxes)
    same = BoxSamples(
        rectangle.source, rectangle.crop, Colours(), boxes=Boxes([[(45.0, 30.0, 75.0, 70.0)]])
    )
    keys = [(0, draw) for draw in range(8)]
    ours, theirs = samples.read(keys).labels, same.read(keys).labels
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


def test_an_annotation_of_another_image_is_refused(rectangle: BoxSamples) -> None:
    """As of one that a viewer turns upright: its boxes fit, but lie elsewhere."""
    boxes = Boxes([[(45.0, 30.0, 75.0, 70.0)]], [(120, 90)])
    samples = BoxSamples(rectangle.source, rectangle.crop, Colours(), boxes=boxes)
    with pytest.raises(InputError, match=r"a\.png has 90 x 120 pixels, its annotation .* 120 x 90"):
        samples.read([(0, 0)])


def test_samples_whose_box_is_wrong_are_skipped(rectangle: BoxSamples) -> None:
    """Another image takes their place; in validation none does."""
    source = Files(rectangle.source.root, ("a.png",) * 3, (3, 4, 5))
    of = [[(45.0, 30.0, 91.0, 70.0)], [(45.0, 30.0, 45.0, 70.0)], [(45.0, 30.0, 75.0, 70.0)]]
    for replace, labels in ((True, [5, 5, 5]), (False, [5])):
        samples = BoxSamples(
            source, rectangle.crop, Colours(), skip=True, replace=replace, boxes=Boxes(of)
        )
        raw = samples.read([(i, 0) for i in range(3)])
        assert raw.labels[:, 0].tolist() == labels
        assert [reason.split("(")[0] for _, reason in raw.bad[:1]] == ["data: the box "]
