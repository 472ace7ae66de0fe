"""``Extractor``: the values of named layers, with everything between two of them fused."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import islice
from math import prod

import torch.nn.functional as F
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.nn import FusedSequential, match
from vggfast.ops import _check
from vggfast.taps.names import find_taps, parts
from vggfast.taps.normalize import Moments, Normalize

# Their output is memory of their own, whatever comes next may write into it.
_NEW_MEMORY = (nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AvgPool2d, nn.BatchNorm2d)


class Extractor(nn.Module):
    """Called with images, it returns the values of the layers asked for.

    >>> extract = vggfast.Extractor(model.eval(), ["relu1_2", "conv3_1"])
    >>> {name: tuple(y.shape) for name, y in extract(torch.rand(1, 3, 64, 64)).items()}
    {'relu1_2': (1, 64, 64, 64), 'conv3_1': (1, 256, 16, 16)}

    Modules and parameters are the model's own objects, up to the deepest layer asked for; what is
    deeper is neither run nor held. Values and gradients, of images and of parameters, are the
    model's. Where parameters are frozen (``requires_grad_(False)``) no gradient of theirs is
    computed and no map kept for it. Batch norm and dropout follow their modules' ``training``.

    Args:
        model: a :class:`vggfast.VGG`, or a module of torchvision's structure
            (:func:`vggfast.taps.named_taps`).
        layers: names (:mod:`vggfast.taps.names`), in the order in which they are returned.
        normalize: (mean, std) of red, green and blue on a 0-255 scale, as weights files have them
            (``vggfast.taps.IMAGENET``: torchvision's); images are RGB from 0 to 1 then. None: they
            are normalised already.
        backend: the backend forced for every op; None: the model's, or the automatic choice.

    Raises:
        InputError: another model, an unknown name (the message lists the names), no names.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        *,
        normalize: Moments | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        taps = find_taps(model, layers)
        features, classifier = parts(model)
        stops = {"features": [], "classifier": []}  # type: dict[str, list[tuple[int, str]]]
        for name, tap in taps.items():
            stops[tap.part or "features"].append((tap.number, name))
        self.layers = tuple(taps)
        self._stops = {part: sorted(found) for part, found in stops.items()}
        deep = bool(stops["classifier"])
        last = len(features) if deep else self._stops["features"][-1][0] + 1
        self.features = _first(features, last, backend)
        self.avgpool: nn.Module | None = getattr(model, "avgpool", None) if deep else None
        self.classifier: FusedSequential | None = None
        if deep:
            assert classifier is not None, "a tap of the classifier was found in it"
            self.classifier = _first(classifier, self._stops["classifier"][-1][0] + 1, backend)
        first = next(m for m in self.features if isinstance(m, nn.Conv2d))
        self.normalize = None if normalize is None else Normalize(*normalize, like=first.weight)
        self._channels = first.in_channels
        self._smallest = prod(_stride(m) for m in self.features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The values of images.

        Args:
            x: (N, 3, H, W), of the parameters' dtype and device, any strides (best channels_last).
                Any H, W that leave a map of one pixel at the deepest layer. For FC layers a map of
                another size than the classifier's is average-pooled to it, where the model has
                ``avgpool`` for that; else it is an error.

        Returns:
            name -> value, in the order of ``layers``: maps (N, C, H', W'), channels_last, and FC
            layers (N, K).

        Raises:
            InputError: a wrong shape or dtype.
        """
        x = _check.array("x", x)
        _check.tensor("x", x)
        self._check_size(x)
        y = x if self.normalize is None else self.normalize(x)
        found: dict[str, Tensor] = {}
        y = _walk(self.features, self._stops["features"], y, found)
        if self.classifier is not None:
            y = self._window(y, tuple(x.shape))
            _walk(self.classifier, self._stops["classifier"], y.flatten(1), found)
        return {name: found[name] for name in self.layers}

    def _check_size(self, x: Tensor) -> None:
        c, least = self._channels, self._smallest
        if x.dim() != 4 or x.shape[1] != c or min(x.shape[2:]) < least:
            raise InputError(
                f"x: got shape {tuple(x.shape)}, allowed is (N, {c}, H, W) with H, W >= {least} "
                f"for {self._deepest()}"
            )

    def _deepest(self) -> str:
        return (self._stops["classifier"] or self._stops["features"])[-1][1]

    def _window(self, y: Tensor, size: tuple[int, ...]) -> Tensor:
        """The map y as the classifier takes it; ``size``: that of the images."""
        assert self.classifier is not None, "asked for only where there is one"
        wanted = next((m.in_features for m in self.classifier if isinstance(m, nn.Linear)), 0)
        c, h, w = y.shape[1:]
        if c * h * w == wanted and (self.avgpool is None or h == w):
            return y
        if self.avgpool is None:
            raise InputError(
                f"x: got shape {size}, which leaves a map of {h} x {w} for {self._deepest()}, "
                f"allowed is one of {wanted // c} pixels, which the classifier was built for"
            )
        pooled: Tensor = self.avgpool(y)
        return pooled


def _first(part: nn.Sequential, count: int, backend: str | None) -> FusedSequential:
    """The first ``count`` modules under their names, run with fused ops."""
    children = OrderedDict(islice(part._modules.items(), count))
    forced = getattr(part, "backend", None) if backend is None else backend
    return FusedSequential(children, backend=forced)


def _stride(m: nn.Module) -> int:
    if not isinstance(m, (nn.MaxPool2d, nn.AvgPool2d)):
        return 1
    return int(m.stride if isinstance(m.stride, int) else max(m.stride))


def _walk(
    part: FusedSequential, stops: list[tuple[int, str]], x: Tensor, found: dict[str, Tensor]
) -> Tensor:
    """Run ``part`` to its end; each value at a stop goes to ``found``."""
    start = 0
    for index, name in stops:
        x = found[name] = _between(part, start, index + 1, x)
        start = index + 1
    return _between(part, start, len(part), x)


def _between(part: FusedSequential, start: int, stop: int, x: Tensor) -> Tensor:
    """Modules ``start`` to ``stop`` - 1 on x, which stays as it is: it is a value somebody has."""
    if start < stop and match.is_relu(part[start]):
        x, start = F.relu(x), start + 1  # not in place, whatever the module says
    elif _writes(list(part)[start:stop]):
        x = x.clone()
    return part.run(x, start, stop)


def _writes(children: list[nn.Module]) -> bool:
    """Whether these modules may write into what they are given."""
    for m in children:
        if getattr(m, "inplace", False):
            return True
        if isinstance(m, _NEW_MEMORY):
            return False
    return False
