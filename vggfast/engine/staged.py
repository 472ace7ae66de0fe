"""Networks that start from trained ones (section 3.1): a deeper one from A, or all layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from vggfast.configs import conv_layers
from vggfast.errors import InputError
from vggfast.models.vgg import VGG
from vggfast.weights.format import first_mismatch, read

# The first four convolutions of A, by the place they have in every configuration. Counted in the
# deeper net itself, its first four would not have A's shapes: its second is conv1_2.
FIRST_CONVOLUTIONS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2")
FC_LAYERS = ("fc6", "fc7", "fc8")


def init_from(model: VGG, path: str | Path) -> list[str]:
    """Copy A's first four convolutions and its FC layers into ``model``; the rest stays random.

    With batch normalisation the parameters and statistics behind those convolutions are copied
    too. Any configuration may take the place of A.

    Returns:
        The names of the copied layers.

    Raises:
        InputError: the file is no weights file, or a layer does not fit; the first is named.
    """
    metadata, theirs = read(path)
    copied = [*FIRST_CONVOLUTIONS, *FC_LAYERS]
    try:
        source = layer_names(metadata["net"], metadata["batch_norm"] == "true")
    except (KeyError, InputError) as error:
        raise InputError(f"init_from: {path} has bad metadata ({error})") from None
    wanted = _by_layer(model.state_dict(), layer_names(model.net, model.batch_norm), copied)
    _copy("init_from", path, model.net, wanted, _by_layer(theirs, source, copied))
    return copied


def fine_tune_from(model: VGG, path: str | Path) -> None:
    """Copy all layers of a trained network of the same configuration into ``model``.

    Raises:
        InputError: the file is no weights file, or a tensor does not fit; the first is named.
    """
    _, theirs = read(path)
    _copy("fine_tune_from", path, model.net, model.state_dict(), theirs)


def layer_names(net: str, batch_norm: bool) -> dict[str, str]:
    """The paper's name for each module with parameters: "features.0" is "conv1_1", and
    "classifier.6" "fc8"; a convolution's batch normalisation is, say, "conv1_1 bn"."""
    names: dict[str, str] = {}
    at = 0
    for layer in conv_layers(net):
        if layer.op not in ("conv3x3", "conv1x1"):
            at += 1
            continue
        names[f"features.{at}"] = layer.name
        if batch_norm:
            names[f"features.{at + 1}"] = f"{layer.name} bn"
        at += 2 + batch_norm + layer.pool
    return names | {f"classifier.{3 * i}": name for i, name in enumerate(FC_LAYERS)}


def _by_layer(
    tensors: Mapping[str, Tensor], names: Mapping[str, str], layers: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors of these layers, named by layer: "conv1_1.weight"."""
    found = {}
    for key, tensor in tensors.items():
        module, _, part = key.rpartition(".")
        layer = names.get(module, "")
        if layer.removesuffix(" bn") in layers:
            found[f"{layer}.{part}"] = tensor
    return found


@torch.no_grad()
def _copy(
    name: str,
    path: str | Path,
    net: str,
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
) -> None:
    wrong = first_mismatch(wanted, found)
    if wrong is not None:
        raise InputError(
            f"{name}: {path} does not fit net {net} ({wrong}); allowed are weights of the same "
            "classes, size and batch normalisation"
            + (", of the same net" if name == "fine_tune_from" else "")
        )
    for key, tensor in wanted.items():
        tensor.copy_(found[key])
