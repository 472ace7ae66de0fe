"""vggfast: VGG on hand-written kernels.

>>> import torch, vggfast
>>> model = vggfast.vgg("E", num_classes=10, crop=32).eval()
>>> model(torch.randn(2, 3, 32, 32)).shape
torch.Size([2, 10])

Importing this loads no kernel, queries no GPU, starts no thread and compiles nothing; a backend
is loaded when it first serves a call. ``print(vggfast.explain())`` tells which one does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from vggfast import ops
from vggfast.acceleration import accelerate, explain, restore
from vggfast.backends import clear_weights, exact, get_fp32_precision, set_fp32_precision
from vggfast.errors import BackendError, InputError, LaunchError
from vggfast.graph import capture, capture_step
from vggfast.models import (
    VGG,
    vgg,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)  # fmt: skip
from vggfast.nn import store_weights
from vggfast.quantization import quantize

if TYPE_CHECKING:
    from vggfast.perceptual import PerceptualLoss
    from vggfast.predict import Predictor
    from vggfast.taps import Extractor
    from vggfast.weights import load_weights

__version__ = "0.1.0"

__all__ = [
    "VGG", "BackendError", "Extractor", "InputError", "LaunchError", "PerceptualLoss", "Predictor",
    "accelerate", "capture", "capture_step", "clear_weights", "evaluate", "exact", "explain",
    "features", "get_fp32_precision", "load_weights", "localize", "ops", "optim", "quantize",
    "restore", "set_fp32_precision", "store_weights", "train", "transfer", "vgg", "vgg11",
    "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn",
]  # fmt: skip

_LAZY = {
    "Extractor": "vggfast.taps",
    "PerceptualLoss": "vggfast.perceptual",
    "Predictor": "vggfast.predict",
    "load_weights": "vggfast.weights",
}


def __getattr__(name: str) -> Any:
    # These pull in readers of images or progress bars: only for those who use them.
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in ("evaluate", "features", "localize", "optim", "train", "transfer"):
        return importlib.import_module(f"vggfast.{name}")
    raise AttributeError(f"module 'vggfast' has no attribute {name!r}")
