"""A small network, and its tensors under the names of other programs, written out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vggfast
from tests.train.helpers import narrow_nets

# Places of net D's convolutions in torchvision's ``features``, by Caffe's names.
CONVOLUTIONS = {
    "conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7, "conv3_1": 10, "conv3_2": 12,
    "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21, "conv5_1": 24, "conv5_2": 26,
    "conv5_3": 28,
}  # fmt: skip
FC = {"fc6": "classifier.0", "fc7": "classifier.3", "fc8": "classifier.6"}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nets with an eighth of their channels: 64 in the last map, 32 in FC layers."""
    narrow_nets(monkeypatch)


@pytest.fixture
def model() -> vggfast.VGG:
    """Net D with a last map of 2x2 for its classifier."""
    torch.manual_seed(3)
    model = vggfast.vgg("D", num_classes=7, crop=64).eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    return model


def timm_names(model: vggfast.VGG) -> dict[str, Tensor]:
    """As timm saves them: its first two FC layers are convolutions."""
    state = dict(model.state_dict())
    w = state.pop("classifier.0.weight")
    state["pre_logits.fc1.weight"] = w.reshape(w.shape[0], -1, 2, 2)
    state["pre_logits.fc1.bias"] = state.pop("classifier.0.bias")
    state["pre_logits.fc2.weight"] = state.pop("classifier.3.weight")[:, :, None, None]
    state["pre_logits.fc2.bias"] = state.pop("classifier.3.bias")
    for leaf in ("weight", "bias"):
        state[f"head.fc.{leaf}"] = state.pop(f"classifier.6.{leaf}")
    return state


def caffe_names(model: vggfast.VGG) -> dict[str, Tensor]:
    """As converters of the Caffe release leave them; what they do to colours is not done here."""
    state, made = model.state_dict(), {}
    places = {c: f"features.{i}" for c, i in CONVOLUTIONS.items()} | FC
    for name, place in places.items():
        for leaf in ("weight", "bias"):
            made[f"{name}.{leaf}"] = state[f"{place}.{leaf}"]
    return made
