"""Names of layers: every configuration, models of torchvision's structure, unknown names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vggfast
from vggfast.configs import CONFIGS, NETS
from vggfast.errors import InputError
from vggfast.taps import find_taps, named_taps

FC = ["fc6", "relu6", "fc7", "relu7", "fc8"]


def meta(net: str, batch_norm: bool = False) -> vggfast.VGG:
    with torch.device("meta"):
        return vggfast.vgg(net, batch_norm=batch_norm)


@pytest.mark.parametrize(
    ("net", "per_block"),
    [("A", (1, 1, 2, 2, 2)), ("A-LRN", (1, 1, 2, 2, 2)), ("B", (2, 2, 2, 2, 2)),
     ("C", (2, 2, 3, 3, 3)), ("D", (2, 2, 3, 3, 3)), ("E", (2, 2, 4, 4, 4))],
)  # fmt: skip
def test_names_are_the_papers(net, per_block):
    wanted = []
    for block, count in enumerate(per_block, 1):
        for n in range(1, count + 1):
            wanted += [f"conv{block}_{n}", f"relu{block}_{n}"]
            if net == "A-LRN" and block == 1:
                wanted.append("lrn1")
        wanted.append(f"pool{block}")
    assert list(named_taps(meta(net))) == wanted + FC


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_each_name_is_a_module_of_its_kind(net, batch_norm):
    kinds = {"conv": nn.Conv2d, "bn": nn.BatchNorm2d, "relu": nn.ReLU, "pool": nn.MaxPool2d,
             "lrn": nn.LocalResponseNorm, "fc": nn.Linear}  # fmt: skip
    model = meta(net, batch_norm)
    modules, taps = dict(model.named_modules()), named_taps(model)
    for name, tap in taps.items():
        assert type(modules[tap.path]) is kinds[name.rstrip("0123456789_")]
    convolutions = sum(not isinstance(item, str) for item in CONFIGS[net])
    assert sum(name.startswith("bn") for name in taps) == batch_norm * convolutions


def test_torchvisions_indices():
    """Those that users write by hand: features[3] of vgg16 is relu1_2, [35] of vgg19 relu5_4."""
    assert find_taps(meta("D"), ["relu1_2", "relu3_3", "relu7"]) == {
        "relu1_2": ("features", 3), "relu3_3": ("features", 15), "relu7": ("classifier", 4)
    }  # fmt: skip
    assert named_taps(meta("E"))["relu5_4"].path == "features.35"
    assert named_taps(meta("D", batch_norm=True))["bn1_2"].path == "features.4"


def test_features_alone_and_average_pools():
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3))
    assert {name: tap.path for name, tap in named_taps(features).items()} == {
        "conv1_1": "0", "relu1_1": "1", "pool1": "2", "conv2_1": "3"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["relu1_2", "relu3_4"], ["layers:", "'relu3_4'", "conv1_1, relu1_1, conv1_2", "fc8"]),
        (["bn1_1"], ["layers:", "'bn1_1'", "relu5_3, pool5, fc6"]),
        (["pool1", "pool1"], ["layers:", "'pool1' twice", "once"]),
        ([], ["layers:", "none", "at least one"]),
        ("relu1_2", ["layers:", "'relu1_2'", "list of names"]),
        ([3], ["layers:", "[3]", "list of names"]),
    ],
)
def test_bad_names(layers, words):
    with pytest.raises(InputError) as caught:
        find_taps(meta("D"), layers)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(3, 3), ["model:", "Linear", "features"]),
        (nn.Sequential(nn.ReLU()), ["model:", "without nn.Conv2d"]),
        (nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.ReLU()), ["model:", "two", "relu1_1"]),
        ("D", ["model:", "str"]),
    ],
)
def test_bad_models(model, words):
    with pytest.raises(InputError) as caught:
        named_taps(model)
    assert all(word in str(caught.value) for word in words), str(caught.value)
