"""What the same tensors are called in different files.

| spelling | convolutions | FC layers |
|---|---|---|
| torchvision | features.0.weight | classifier.0.weight, classifier.3, classifier.6 |
| part | 0.weight | none: a state dict of ``features`` alone |
| timm | features.0.weight | pre_logits.fc1.weight (4096, 512, 7, 7), pre_logits.fc2, head.fc |
| caffe | conv1_1.weight | fc6.weight, fc7, fc8 |

The Caffe release was converted by many: ``conv1_1_W``, ``conv1_1/kernel`` and the like are read
too, and so are weights with their outputs last, as TensorFlow has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import Tensor, nn

from vggfast.configs import conv_layers
from vggfast.models.vgg import VGG

SPELLINGS = ("torchvision", "part", "timm", "caffe")
FC = {
    "torchvision": ("classifier.0", "classifier.3", "classifier.6"),
    "part": ("classifier.0", "classifier.3", "classifier.6"),
    "timm": ("pre_logits.fc1", "pre_logits.fc2", "head.fc"),
    "caffe": ("fc6", "fc7", "fc8"),
}
_LEAVES = {
    "weight": "weight", "weights": "weight", "kernel": "weight", "W": "weight", "w": "weight",
    "bias": "bias", "biases": "bias", "B": "bias", "b": "bias",
}  # fmt: skip
_CAFFE = re.compile(rf"(conv\d_\d|fc[678])[._/]({'|'.join(_LEAVES)})")


def spelling_of(names: Iterable[str]) -> str:
    """Which of :data:`SPELLINGS` names of tensors are."""
    found = set(names)
    if any(_CAFFE.fullmatch(name) for name in found):
        return "caffe"
    if any(name.startswith(("pre_logits.", "head.fc.")) for name in found):
        return "timm"
    return "part" if "0.weight" in found else "torchvision"


def spelled(model: VGG, spelling: str) -> dict[str, str]:
    """For each tensor of ``model``'s state dict, what it is called in that spelling."""
    modules = {"classifier." + n: fc for n, fc in zip("036", FC[spelling], strict=True)}
    if spelling == "part":
        modules |= {f"features.{i}": str(i) for i in range(len(model.features))}
    if spelling == "caffe":
        at = [i for i, module in enumerate(model.features) if isinstance(module, nn.Conv2d)]
        layers = [layer.name for layer in conv_layers(model.net) if layer.op.startswith("conv")]
        modules |= {f"features.{i}": name for i, name in zip(at, layers, strict=True)}
    names = {}
    for name in model.state_dict():
        module, leaf = name.rsplit(".", 1)
        names[name] = f"{modules.get(module, module)}.{leaf}"
    return names


def regular(tensors: dict[str, Tensor], spelling: str) -> tuple[dict[str, Tensor], bool]:
    """The tensors under the names of the table, outputs first, FC weights with two axes.

    Returns:
        The tensors, and whether their outputs came last.
    """
    last = False
    if spelling == "caffe":
        tensors = {_caffe_name(name): tensor for name, tensor in tensors.items()}
        last = _outputs_last(tensors.get("conv1_1.weight"))
    if last:
        tensors = _outputs_first(tensors)
    fc = {f"{name}.weight" for name in FC[spelling]}
    return {
        name: t.flatten(1) if name in fc and t.dim() == 4 else t for name, t in tensors.items()
    }, last


def _caffe_name(name: str) -> str:
    found = _CAFFE.fullmatch(name)
    return name if found is None else f"{found[1]}.{_LEAVES[found[2]]}"


def _outputs_last(first: Tensor | None) -> bool:
    return first is not None and first.dim() == 4 and tuple(first.shape[:3]) == (3, 3, 3)


def _outputs_first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """(H, W, C, K) as (K, C, H, W), and (C, K) as (K, C).

    The columns of fc6 run over (H, W, C) there and over (C, H, W) here; C is the number of outputs
    of the last convolution.
    """
    convolutions = [t for n, t in sorted(tensors.items()) if n.startswith("conv") and t.dim() == 4]
    channels = convolutions[-1].shape[-1]
    turned = {}
    for name, t in tensors.items():
        if name == "fc6.weight" and t.dim() == 2 and t.shape[0] % channels == 0:
            side = round((t.shape[0] // channels) ** 0.5)
            if side * side * channels == t.shape[0]:
                t = t.reshape(side, side, channels, -1)
        if t.dim() == 4:
            t = t.permute(3, 2, 0, 1)
        elif t.dim() == 2:
            t = t.T
        turned[name] = t.contiguous()
    return turned
