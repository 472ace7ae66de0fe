"""Named layers as functions of whole images: dense, FC layers too."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.evaluation.dense import apply_densely
from vggfast.models.vgg import VGG
from vggfast.taps.extractor import Extractor
from vggfast.taps.names import Tap, named_taps

PENULTIMATE = "relu7"  # 4096 activations, after the ReLU: what the last FC layer is given


def layer(model: VGG, name: str = PENULTIMATE) -> Callable[[Tensor], Tensor]:
    """The function from images (N, 3, H, W) to the activations (N, F, H', W') of a layer.

    Convolutional layers are what :class:`vggfast.taps.Extractor` gives; what is deeper is not run.
    FC layers are applied at every place (:func:`vggfast.evaluation.apply_densely`), each on a
    window of crop / 32 rows and columns of the last map.

    Args:
        model: in eval mode, else dropout is applied.
        name: as in :mod:`vggfast.taps.names`: relu7, fc6, relu5_3, pool4, ...

    Raises:
        InputError: no such layer; the message lists those there are.
    """
    tap = _tap(model, name)
    if tap.part == "classifier":
        head = model.classifier[: tap.number + 1]
        return lambda x: apply_densely(model, x, head)
    extract = Extractor(model, [name])
    return lambda x: extract(x)[name]


def width(model: VGG, name: str) -> int:
    """How many activations a layer has at each place. Raises InputError as :func:`layer` does."""
    tap = _tap(model, name)
    part = model.classifier if tap.part == "classifier" else model.features
    found = 3
    for module in list(part)[: tap.number + 1]:
        if isinstance(module, nn.Conv2d):
            found = module.out_channels
        elif isinstance(module, nn.Linear):
            found = module.out_features
    return found


def _tap(model: VGG, name: str) -> Tap:
    known = named_taps(model)
    if name not in known:
        raise InputError(f"layer: got {name!r} of net {model.net}, allowed are {', '.join(known)}")
    return known[name]
