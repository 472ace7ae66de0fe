"""Names of a VGG's layers, as the field uses them, and the module whose output each one is.

| name | value |
|---|---|
| conv1_2 | the second convolution of the first block, before what follows it |
| bn1_2 | its batch normalisation, before the ReLU (networks with batch norm) |
| relu1_2 | its ReLU |
| lrn1 | local response normalisation of the first block (A-LRN) |
| pool1 | the pool that ends the first block |
| fc6, fc7, fc8 | the fully connected layers, before the ReLU |
| relu6, relu7 | their ReLUs |

So the value before the ReLU is conv1_2 in a plain network and bn1_2 in one with batch norm, whose
conv1_2 is the convolution's own output, not normalised yet. The names follow from the network's own
structure: D's third block ends with conv3_3, E's with conv3_4, A's first has conv1_1 alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from vggfast.errors import InputError

_FIRST_FC = 6  # a VGG has five blocks, and its FC layers count on from there
_POOLS = (nn.MaxPool2d, nn.AvgPool2d)


class Tap(NamedTuple):
    """The output of child ``number`` of ``part``: "features", "classifier", or "", the model."""

    part: str
    number: int

    @property
    def path(self) -> str:
        """The module's name in ``model.named_modules()``, where children are numbered."""
        return f"{self.part}.{self.number}" if self.part else str(self.number)


def named_taps(model: nn.Module) -> dict[str, Tap]:
    """Every name of ``model`` and where it is found, from the image upwards.

    Args:
        model: a :class:`vggfast.VGG`, or any module with an ``nn.Sequential`` as ``features`` and
            perhaps one as ``classifier``, as torchvision's VGGs have; or such a ``features`` alone.

    Raises:
        InputError: another model, or one without convolutions in its ``features``.
    """
    features, classifier = parts(model)
    part = "" if features is model else "features"
    found = {name: Tap(part, i) for i, name in _feature_names(features)}
    if not any(name.startswith("conv") for name in found):
        raise InputError(
            "model: got one without nn.Conv2d in its features, allowed is a VGG with at least one"
        )
    if classifier is not None:
        found.update((name, Tap("classifier", i)) for i, name in _classifier_names(classifier))
    return found


def find_taps(model: nn.Module, layers: Sequence[str]) -> dict[str, Tap]:
    """The taps of ``layers``, in that order.

    Raises:
        InputError: as :func:`named_taps`; no layer, one named twice, or an unknown one (the message
            lists the names there are).
    """
    if isinstance(layers, str) or not all(isinstance(name, str) for name in layers):
        raise InputError(f"layers: got {layers!r}, allowed is a list of names such as 'relu1_2'")
    if not layers:
        raise InputError("layers: got none, allowed is at least one name")
    known = named_taps(model)
    for i, name in enumerate(layers):
        if name not in known:
            raise InputError(f"layers: got {name!r}, allowed are {', '.join(known)}")
        if name in layers[:i]:
            raise InputError(f"layers: got {name!r} twice, allowed is each name once")
    return {name: known[name] for name in layers}


def parts(model: nn.Module) -> tuple[nn.Sequential, nn.Sequential | None]:
    """``features`` and, if there is one, ``classifier`` of a model.

    Raises:
        InputError: a model without such ``features``.
    """
    features = getattr(model, "features", None)
    if features is None and isinstance(model, nn.Sequential):
        return model, None
    if not isinstance(features, nn.Sequential):
        raise InputError(
            f"model: got {type(model).__name__}, allowed is a VGG: a torch.nn.Module whose "
            "features are an nn.Sequential, or these alone"
        )
    classifier = getattr(model, "classifier", None)
    return features, classifier if isinstance(classifier, nn.Sequential) else None


def _feature_names(features: nn.Sequential) -> Iterator[tuple[int, str]]:
    block, number, seen = 1, 0, set()
    for i, m in enumerate(features):
        if isinstance(m, nn.Conv2d):
            number += 1
            name = f"conv{block}_{number}"
        elif isinstance(m, nn.BatchNorm2d) and number:
            name = f"bn{block}_{number}"
        elif isinstance(m, nn.ReLU) and number:
            name = f"relu{block}_{number}"
        elif isinstance(m, nn.LocalResponseNorm):
            name = f"lrn{block}"
        elif isinstance(m, _POOLS):
            name = f"pool{block}"
            block, number = block + 1, 0
        else:
            continue  # it has no name in the field
        if name in seen:
            raise InputError(f"model: got two modules that are {name}, allowed is one")
        seen.add(name)
        yield i, name


def _classifier_names(classifier: nn.Sequential) -> Iterator[tuple[int, str]]:
    number = _FIRST_FC - 1
    for i, m in enumerate(classifier):
        if isinstance(m, nn.Linear):
            number += 1
            yield i, f"fc{number}"
        elif isinstance(m, nn.ReLU) and number >= _FIRST_FC:
            yield i, f"relu{number}"
