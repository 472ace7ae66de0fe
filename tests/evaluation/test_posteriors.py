"""The protocols on tensors: what is averaged, and after which softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import vggfast
from vggfast.evaluation import class_maps, dense_posteriors, multicrop_posteriors, single_posteriors
from vggfast.evaluation.crops import grid_corners
from vggfast.evaluation.posteriors import POSTERIORS, PROTOCOLS, images_a_pass

from .helpers import build

SIZE = (45, 53)


@pytest.fixture
def model() -> vggfast.VGG:
    return build("A", 32)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, *SIZE)


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_dense_averages_scores_over_space_and_softmax_over_mirror_images(model: Any) -> None:
    x = torch.randn(2, 3, 70, 97)
    maps, mirrored = class_maps(model, x), class_maps(model, x.flip(-1))
    assert maps.shape[2:] == (2, 3)
    first, second = (m.mean((2, 3)).softmax(1) for m in (maps, mirrored))
    near(dense_posteriors(model, x, flips=False), first)
    near(dense_posteriors(model, x), (first + second) / 2)


@torch.inference_mode()
def test_multicrop_is_the_mean_of_fifty_softmaxes(model: Any, x: Tensor) -> None:
    total, count = torch.zeros(3, 7, dtype=torch.float64), 0
    for top, left in grid_corners(*SIZE, 32):
        crop = x[:, :, top : top + 32, left : left + 32]
        for image in (crop, crop.flip(-1)):
            total += model(image).softmax(1).double()
            count += 1
    assert count == 50
    near(multicrop_posteriors(model, x), total / 50)


@torch.inference_mode()
def test_crops_that_coincide_count_as_often_as_they_occur(model: Any) -> None:
    x = torch.randn(2, 3, 33, 34)  # places 0 0 0 1 1 and 0 0 1 1 2
    total = torch.zeros(2, 7)
    for top in (0, 0, 0, 1, 1):
        for left in (0, 0, 1, 1, 2):
            total += model(x[:, :, top : top + 32, left : left + 32]).softmax(1)
    near(multicrop_posteriors(model, x, flips=False), total / 25)


class _Counting:
    """Stands in for a network: equal scores for everything, and counts the crops it sees."""

    crop, num_classes, seen = 32, 4, 0

    def __call__(self, x: Tensor) -> Tensor:
        assert x.shape[1:] == (3, 32, 32)
        self.seen += len(x)
        return torch.zeros(len(x), 4)


def test_three_scales_are_150_crops() -> None:
    counting: Any = _Counting()
    for scale in (40, 48, 56):
        multicrop_posteriors(counting, torch.randn(1, 3, scale, scale + 9), batch=7)
    assert counting.seen == 150


@torch.inference_mode()
def test_single_is_the_centre_crop(model: Any, x: Tensor) -> None:
    crop = x[:, :, 6:38, 10:42]
    near(single_posteriors(model, x, flips=False), model(crop).softmax(1))
    both = (model(crop).softmax(1) + model(crop.flip(-1)).softmax(1)) / 2
    near(single_posteriors(model, x), both)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@torch.inference_mode()
def test_a_crop_sized_image_gives_the_same_by_every_protocol(model: Any, protocol: str) -> None:
    x = torch.randn(2, 3, 32, 32)
    near(POSTERIORS[protocol](model, x, flips=False), model(x).softmax(1))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@torch.inference_mode()
def test_an_image_and_its_mirror_image_score_alike(model: Any, protocol: str) -> None:
    x = torch.randn(2, 3, 40, 48)  # its grid and its centre are symmetric
    function = POSTERIORS[protocol]
    near(function(model, x), function(model, x.flip(-1)))
    a, b = function(model, x, flips=False), function(model, x.flip(-1), flips=False)
    near(function(model, x), (a + b) / 2)
    assert (a - b).abs().max() > 1e-4, "a network that sees no difference proves nothing"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("batch", [1, 7, 64])
@torch.inference_mode()
def test_the_batch_changes_nothing(model: Any, x: Tensor, protocol: str, batch: int) -> None:
    x = x[:2, :, :33, :34] if protocol == "multicrop" else x  # six places, not 25
    wanted = torch.cat([POSTERIORS[protocol](model, one[None]) for one in x])
    got = POSTERIORS[protocol](model, x, batch=batch)
    near(got, wanted)
    near(got.sum(1), torch.ones(len(x)))


def test_how_many_images_a_pass() -> None:
    assert images_a_pass(224, 224, 224, flips=False, batch=16) == 16
    assert images_a_pass(224, 224, 224, flips=True, batch=16) == 8
    assert images_a_pass(448, 448, 224, flips=False, batch=16) == 4
    assert images_a_pass(512, 2000, 224, flips=True, batch=16) == 1
