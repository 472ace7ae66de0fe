"""The one loader: a file of weights of any kind, as a network with what its images have to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vggfast.configs import check_net
from vggfast.errors import InputError
from vggfast.taps.normalize import IMAGENET, Moments
from vggfast.weights import imagenet
from vggfast.weights.format import Weights, check_format, loaded
from vggfast.weights.names import regular, spelling_of
from vggfast.weights.network import Known, filled, recognise
from vggfast.weights.tensors import Stored, read_tensors

# Means that the Caffe release subtracts (its VGG_mean.mat); it does not divide.
CAFFE: Moments = ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
# What images a state dict wants: their moments, and whether as BGR.
PREPROCESSING: dict[str, tuple[Moments, bool]] = {
    "torchvision": (IMAGENET, False),
    "caffe": (CAFFE, True),
    "caffe-rgb": (CAFFE, False),
}


class Pretrained(NamedTuple):
    """A network in eval mode on the CPU, and the moments of RGB, on a 0-255 scale, that it wants.

    ``model`` is a :class:`vggfast.VGG`, or the ``features`` of one where the file has no more.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_weights(
    path: str | PathLike[str],
    *,
    net: str | None = None,
    batch_norm: bool | None = None,
    preprocessing: str | None = None,
    classes: Sequence[str] | None = None,
    backend: str | None = None,
    boxes: bool = False,
) -> Weights:
    """Read a network from a file of weights; no code of the file is run, nothing is downloaded.

    Args:
        path: what :func:`vggfast.weights.save_weights` wrote; a state dict of VGG by torchvision,
            timm or of the Caffe release, in safetensors, of ``torch.save``, or the last as .npz;
            or "imagenet": torchvision's weights of ``net`` where torch.hub keeps them.
        net, batch_norm: the configuration a file has to be of, by default whatever its tensors
            fit; of "imagenet" by default D without batch normalisation.
        preprocessing: what a state dict's images have to be: "torchvision" (RGB, torchvision's mean
            and deviation), "caffe" (BGR, 0 to 255, the mean subtracted) or "caffe-rgb" (the same as
            RGB). By default torchvision for its names and timm's; caffe for names such as conv1_1,
            but caffe-rgb for TensorFlow's layout. The network always takes RGB: of "caffe" the
            first convolution's input channels are turned round.
        classes: names of the classes, in the order of the logits; by default those in the file,
            or their numbers.
        backend: name of the backend to force for every op of the network, or None.
        boxes: whether a network that localises is wanted, which only our own files hold.

    Returns:
        The network, in float32, with the images it wants. A state dict's images are those of its
        usual test: the shorter side 8/7 of the crop.

    Raises:
        InputError: no such file, a damaged one, one with code in it, or tensors that fit no
            configuration: the message names the first and both shapes.
    """
    if net is not None:
        check_net(net)
    if path == "imagenet":
        net, batch_norm = net or "D", bool(batch_norm)
        path = imagenet.find(net, batch_norm)
    path = Path(path)
    stored = read_tensors(path)
    if _is_ours(path, stored, preprocessing):
        weights = loaded(path, stored.metadata, stored.tensors, backend=backend, boxes=boxes)
        _check_configuration(path, weights, net, batch_norm)
    else:
        if boxes:
            raise InputError(
                f"weights: {path} holds a network that classifies; allowed is one that localises, "
                "made by vggfast.localize train"
            )
        known, tensors, moments, bgr = _known(
            path, stored, preprocessing, net=net, batch_norm=batch_norm, backend=backend
        )
        if not known.whole:
            raise InputError(
                f"weights: {path} holds the convolutions of net {known.model.net} alone; allowed "
                "is a whole network (vggfast.PerceptualLoss takes the convolutions)"
            )
        model = known.model
        _fill(known, tensors, bgr)
        weights = Weights(
            model=model,
            classes=tuple(map(str, range(model.num_classes))),
            mean=tuple(map(float, moments[0])),
            std=tuple(map(float, moments[1])),
            net=model.net,
            crop=model.crop,
            scale=(round(model.crop * 8 / 7),) * 2,
        )
    if classes is None:
        return weights
    if len(classes) != len(weights.classes):
        raise InputError(
            f"classes: got {len(classes)} names, allowed are {len(weights.classes)}, as many as "
            f"{path} has"
        )
    return replace(weights, classes=tuple(map(str, classes)))


def load_pretrained(path: str | PathLike[str], *, preprocessing: str | None = None) -> Pretrained:
    """A network, or its convolutions alone, from a file as :func:`load_weights` takes it.

    Raises:
        InputError: as there.
    """
    path = Path(path)
    stored = read_tensors(path)
    if _is_ours(path, stored, preprocessing):
        weights = loaded(path, stored.metadata, stored.tensors)
        return Pretrained(weights.model, weights.mean, weights.std)
    known, tensors, (mean, std), bgr = _known(path, stored, preprocessing)
    return Pretrained(_fill(known, tensors, bgr), tuple(mean), tuple(std))


def _is_ours(path: Path, stored: Stored, preprocessing: str | None) -> bool:
    if preprocessing is not None and preprocessing not in PREPROCESSING:
        raise InputError(
            f"preprocessing: got {preprocessing!r}, allowed are {', '.join(PREPROCESSING)}"
        )
    if "vggfast_format" not in stored.metadata:
        return False
    check_format(path, stored.metadata)
    if preprocessing is not None:
        raise InputError(
            f"preprocessing: got {preprocessing!r} for {path}, which says by itself what images it "
            "wants; allowed is none"
        )
    return True


def _known(
    path: Path,
    stored: Stored,
    preprocessing: str | None,
    *,
    net: str | None = None,
    batch_norm: bool | None = None,
    backend: str | None = None,
) -> tuple[Known, dict[str, Tensor], Moments, bool]:
    """The configuration of a state dict, its tensors, and its images: moments, whether BGR."""
    spelling = spelling_of(stored.tensors)
    tensors, outputs_last = regular(stored.tensors, spelling)
    known = recognise(path, tensors, spelling, net=net, batch_norm=batch_norm, backend=backend)
    if preprocessing is None:
        caffe = "caffe-rgb" if outputs_last else "caffe"
        preprocessing = caffe if spelling == "caffe" else "torchvision"
    moments, bgr = PREPROCESSING[preprocessing]
    return known, tensors, moments, bgr


@torch.no_grad()
def _fill(known: Known, tensors: dict[str, Tensor], bgr: bool) -> nn.Module:
    part = filled(known, tensors)
    if bgr:
        first = next(part.parameters())  # conv1_1's weights
        first.copy_(first.flip(1))
    return part


def _check_configuration(
    path: Path, weights: Weights, net: str | None, batch_norm: bool | None
) -> None:
    found = weights.net, weights.model.batch_norm
    wanted = net or found[0], found[1] if batch_norm is None else batch_norm
    if found != wanted:
        told = ["{}{}".format(n, " with batch normalisation" * b) for n, b in (found, wanted)]
        raise InputError(f"weights: {path} is the net {told[0]}; asked for was {told[1]}")
