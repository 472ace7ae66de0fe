"""What several of the evaluation tests use."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

import vggfast
from vggfast.evaluation.scores import Scores, Source
from vggfast.weights import save_weights

CLASSES = ("ant", "bee", "cat")
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 61.0, 62.0)


def build(net: str = "A", crop: int = 32, classes: int = 7, **options: object) -> vggfast.VGG:
    """A network whose biases are not zero, so that padding and windows show in every score."""
    model = vggfast.vgg(net, num_classes=classes, crop=crop, **options).eval()  # type: ignore[arg-type]
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, 0, 0.1)
    return model


def save_net(
    path: Path, net: str, seed: int, classes: tuple[str, ...] = CLASSES, crop: int = 32
) -> Path:
    torch.manual_seed(seed)
    model = build(net, crop, len(classes))
    save_weights(path, model, classes=classes, mean=MEAN, std=STD, scale=(37, 37))
    return path


def plain(model: vggfast.VGG, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Features and classifier as plain torch modules, with copies of the parameters in dtype."""
    parts = (nn.Sequential(*copy.deepcopy(list(p))) for p in (model.features, model.classifier))
    features, classifier = (part.to(dtype).eval() for part in parts)
    return features, classifier


def window_by_window(model: vggfast.VGG, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The FC layers on every window of the last map, one after the other, in plain torch."""
    features, classifier = plain(model, dtype)
    maps, k = features(x.to(dtype)), model.crop // 32
    lines = []
    for top in range(maps.shape[2] - k + 1):
        line = []
        for left in range(maps.shape[3] - k + 1):
            line.append(classifier(maps[:, :, top : top + k, left : left + k].flatten(1)))
        lines.append(torch.stack(line, -1))
    return torch.stack(lines, -2)


def source(**changed: object) -> Source:
    """Where scores of a net A on three classes come from, but for what is ``changed``."""
    values = {
        "weights": "0123456789ab", "net": "A", "crop": 32, "trained": (37, 37), "classes": CLASSES,
        "data": "folder:/data", "part": "val", "names": "ab" * 32, "protocol": "dense",
        "scale": 37, "flips": True, "dtype": "fp32",
    }  # fmt: skip
    return Source(**{**values, **changed})  # type: ignore[arg-type]


def scores(posteriors: list[list[float]], labels: list[int], **changed: object) -> Scores:
    names = tuple(f"{i}.png" for i in range(len(labels)))
    return Scores(source(**changed), names, torch.tensor(labels), torch.tensor(posteriors))
