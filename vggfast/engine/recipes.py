"""Presets of settings. What the user gives wins over a recipe, a recipe over the defaults."""

from __future__ import annotations

from typing import Any

# Defaults that depend on the kind of data. Photographs: the paper's (section 3.1). The small sets
# see fewer images, so smaller batches, and few epochs reach what they can reach.
SMALL: dict[str, Any] = {"size": 32, "batch": 32, "epochs": 12}
PHOTOGRAPHS: dict[str, Any] = {"size": 224, "batch": 256, "epochs": 74}

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
