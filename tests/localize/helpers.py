"""What several of the localisation tests use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.evaluation.helpers import MEAN, STD, build
from vggfast.localization.canvases import write_canvases
from vggfast.models.boxes import BoxRegressor
from vggfast.weights import save_weights

DIGITS = tuple(str(i) for i in range(10))


def canvas_set(folder: Path, train: int, val: int) -> Path:
    """Digits on noise, 64 x 64."""
    pytest.importorskip("sklearn")
    pytest.importorskip("PIL.Image")
    write_canvases(folder, "digits", train=train, val=val)
    return folder


def regressor(boxes: str = "pcr", crop: int = 64, classes: int = 10, seed: int = 3) -> BoxRegressor:
    """A network whose boxes differ from place to place and from class to class."""
    torch.manual_seed(seed)
    model = BoxRegressor("A", boxes=boxes, classes=classes, crop=crop).eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, 0, 0.1)
    nn.init.normal_(model.classifier[-1].weight, 0, 0.1)
    with torch.no_grad():  # boxes of about half a crop, of which many overlap
        model.classifier[-1].bias.view(-1, 4)[:, 2:] += 1
    return model


def save_regressor(path: Path, boxes: str = "pcr", seed: int = 3) -> Path:
    model = regressor(boxes, seed=seed)
    save_weights(path, model, classes=DIGITS, mean=MEAN, std=STD, scale=(64, 64))
    return path


def save_classifier(path: Path, seed: int = 1) -> Path:
    torch.manual_seed(seed)
    model = build("A", 64, len(DIGITS))
    save_weights(path, model, classes=DIGITS, mean=MEAN, std=STD, scale=(64, 64))
    return path
