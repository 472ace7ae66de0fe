"""Presets of settings. What the user gives wins over a recipe, a recipe over the defaults."""

from __future__ import annotations

from typing import Any

from vggfast.data import PHOTOGRAPHS, parse_spec

# Defaults that depend on the kind of data. Photographs: the paper's (section 3.1). The small sets
# see fewer images, so smaller batches, and few epochs reach what they can reach.
_SMALL: dict[str, Any] = {"size": 32, "batch": 32, "epochs": 12}
_PHOTOGRAPHS: dict[str, Any] = {"size": 224, "batch": 256, "epochs": 74}

RECIPES: dict[str, dict[str, Any]] = {
    # Section 3.1. 74 epochs of ILSVRC's 1.28 million images in batches of 256 are 370 000 steps.
    # The paper draws A's weights from a normal distribution and gives its "variance" as 0.01; it
    # adds that Glorot & Bengio's initialisation needs no pre-training, and A learns from that one
    # in fewer steps (docs/training.md), so it is this recipe's. init="normal" is N(0, 0.01^2).
    "paper": {
        "batch": 256, "epochs": 74, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4,
        "dropout": 0.5, "schedule": "plateau", "init": "glorot", "rgb_shift": "train",
    },
    # What has come since; batch_norm=True goes well with it.
    "modern": {
        "init": "kaiming", "schedule": "cosine", "warmup": 0.05, "label_smoothing": 0.1,
        "ema": 0.9999, "dtype": "auto",
    },
}  # fmt: skip


def photographs(data: str) -> bool:
    """Whether ``data`` names photographs, which are rescaled before they are cropped."""
    return parse_spec(data)[0] in PHOTOGRAPHS


def defaults(recipe: str | None, data: str) -> dict[str, Any]:
    """What is set for ``data`` before the user has said anything."""
    if photographs(data):
        return {**_PHOTOGRAPHS, **(RECIPES[recipe] if recipe else {})}
    found = {**_SMALL, **(RECIPES[recipe] if recipe else {})}
    found.pop("rgb_shift", None)  # these sets are grey
    return found
