"""``PerceptualLoss``: how far two images are apart for a VGG."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vggfast.errors import InputError
from vggfast.perceptual.criteria import CRITERIA
from vggfast.perceptual.gram import gram_matrix
from vggfast.taps import Extractor, find_taps
from vggfast.taps.normalize import Moments


@dataclass(frozen=True)
class Targets:
    """What images are compared with: maps of content layers, Gram matrices of style layers."""

    content: dict[str, Tensor] = field(default_factory=dict)
    style: dict[str, Tensor] = field(default_factory=dict)


class PerceptualLoss(nn.Module):
    """sum_l weights_l * content_l + sum_l style_weights_l * style_l, a scalar to minimise.

    With F_l(x) the values of layer l for an image x and G_l(x) their Gram matrix
    (:func:`vggfast.perceptual.gram_matrix`), both averaged over the images of a batch:

    * content_l, criterion "mse": the mean of (F_l(x) - F_l(t))^2 over a map (Johnson et al. 2016,
      equation 2; Gatys et al. 2016 take half the sum); "l1": the mean of |F_l(x) - F_l(t)|.
    * style_l: the sum of (G_l(x) - G_l(t))^2 over the matrix, the squared Frobenius norm (Johnson
      et al. 2016, equation 4; four times Gatys' E_l).

    >>> loss = vggfast.PerceptualLoss(["relu2_2", "relu3_3"], [1, 0.5], model=vgg16)
    >>> loss(restored, sharp).backward()  # images (N, 3, H, W)

    >>> loss = vggfast.PerceptualLoss(["relu4_2"], [1], model="vgg19.pth",
    ...                               style_layers=["relu1_1", "relu2_1"], style_weights=[1e4, 1e4])
    >>> targets = loss.targets(photograph, painting)  # once
    >>> loss(image, targets).backward()

    The network is run up to the deepest layer, in eval mode, and is not trained: the module holds a
    frozen copy of the layers it needs, which shares the memory of the model's parameters (until one
    of the two is moved or cast). The gradient goes to the image alone; where the target has a
    gradient it is ignored.

    Args:
        layers: names of content layers (:mod:`vggfast.taps.names`); may be empty beside style
            layers.
        weights: a number from 0 up for each of ``layers``; None: 1 each.
        model: a VGG (what :class:`vggfast.Extractor` takes), or the file of its weights: one of
            ``python -m vggfast.train``, or torchvision's state dict (``*.pth``, ``*.safetensors``).
            Nothing is ever downloaded.
        style_layers, style_weights: the same for style.
        criterion: "mse" or "l1", of content.
        normalize: (mean, std) of RGB on a 0-255 scale; images are RGB from 0 to 1 then. None: as
            the file says, for a file; for a model, its images are normalised already.
        backend: the backend forced for every op, or None.

    Raises:
        InputError: no layers, lists of different lengths, unknown names, FC layers for style,
            weights that are negative or not finite, no model, or a file that cannot be read.
    """

    def __init__(
        self,
        layers: Sequence[str],
        weights: Sequence[float] | None = None,
        *,
        model: nn.Module | str | os.PathLike[str] | None = None,
        style_layers: Sequence[str] = (),
        style_weights: Sequence[float] | None = None,
        criterion: str = "mse",
        normalize: Moments | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if criterion not in CRITERIA:
            raise InputError(f"criterion: got {criterion!r}, allowed are {', '.join(CRITERIA)}")
        self.criterion = criterion
        self.weights = _weighted("layers", "weights", layers, weights)
        self.style_weights = _weighted("style_layers", "style_weights", style_layers, style_weights)
        if isinstance(model, (str, os.PathLike)):
            from vggfast.weights import load_pretrained

            try:
                loaded = load_pretrained(model)
            except InputError as error:  # it is called weights there
                raise InputError(f"model: {str(error).removeprefix('weights: ')}") from None
            model = loaded.model
            normalize = (loaded.mean, loaded.std) if normalize is None else normalize
        if model is None:
            raise InputError(
                "model: got none, allowed is a VGG or the file of its weights (none is downloaded)"
            )
        both = list(dict.fromkeys((*self.weights, *self.style_weights)))
        for name, tap in find_taps(model, both).items():
            if tap.part == "classifier" and name in self.style_weights:
                raise InputError(
                    f"style_layers: got {name!r}, allowed are layers with maps, not FC"
                )
        self.extractor = _frozen(Extractor(model, both, normalize=normalize, backend=backend))
        self.train(False)

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Stay in eval mode, whatever mode a module that holds this one is set to."""
        return super().train(False)

    @torch.no_grad()
    def targets(self, content: Tensor | None = None, style: Tensor | None = None) -> Targets:
        """What images are to be compared with, computed once.

        Args:
            content: images (N, 3, H, W), or (1, 3, H, W) for all of a batch, of the size of those
                compared; may be left out where there are no content layers.
            style: images (N, 3, H', W') or (1, 3, H', W') of any size; None: ``content``.

        Raises:
            InputError: an image that is needed is missing, or has a wrong shape.
        """
        for name, given, wanted in (
            ("content", content, self.weights),
            ("style", content if style is None else style, self.style_weights),
        ):
            if given is None and wanted:
                raise InputError(f"{name}: got none, allowed is an image for {', '.join(wanted)}")
        maps = {} if content is None else self.extractor(content)
        styled = maps if style is None else self.extractor(style)
        return Targets(
            {name: maps[name] for name in self.weights},
            {name: gram_matrix(styled[name]) for name in self.style_weights},
        )

    def forward(self, x: Tensor, target: Tensor | Targets) -> Tensor:
        """The loss of images x (N, 3, H, W) for ``target``: images of that size, or ``targets()``.

        Raises:
            InputError: another shape or dtype, or targets of other layers.
        """
        return torch.stack([*self.terms(x, target).values()]).sum()

    def terms(self, x: Tensor, target: Tensor | Targets) -> dict[str, Tensor]:
        """The weighted terms whose sum the loss is: "content/relu4_2", "style/relu1_1", ..."""
        if not isinstance(target, Targets):
            target = self.targets(target)
        self._check(target)
        found = self.extractor(x)
        terms: dict[str, Tensor] = {}
        criterion = CRITERIA[self.criterion]
        for name, weight in self.weights.items():
            wanted = _beside("content", name, target.content[name], found[name])
            terms[f"content/{name}"] = weight * criterion(_wide(found[name]), _wide(wanted))
        for name, weight in self.style_weights.items():
            gram = gram_matrix(found[name])
            wanted = _beside("style", name, target.style[name], gram)
            squares = (gram - wanted).square().sum() / max(len(gram), 1)
            terms[f"style/{name}"] = weight * squares
        return terms

    def _check(self, target: Targets) -> None:
        for kind, wanted, given in (
            ("content", self.weights, target.content),
            ("style", self.style_weights, target.style),
        ):
            for name in wanted:
                if name not in given:
                    raise InputError(
                        f"target: got {kind} of {', '.join(given) or 'no layer'}, allowed are "
                        f"targets with {name}"
                    )

    def extra_repr(self) -> str:
        content = ", ".join(f"{name}: {weight:g}" for name, weight in self.weights.items())
        style = ", ".join(f"{name}: {weight:g}" for name, weight in self.style_weights.items())
        return f"content={{{content}}}, style={{{style}}}, criterion={self.criterion}"


def _weighted(
    names_name: str, weights_name: str, names: Sequence[str], weights: Sequence[float] | None
) -> dict[str, float]:
    """name -> weight, in order."""
    if isinstance(names, str):
        raise InputError(f"{names_name}: got {names!r}, allowed is a list of names")
    names = list(names)
    numbers = [1.0] * len(names) if weights is None else [float(w) for w in weights]
    if len(numbers) != len(names):
        raise InputError(
            f"{weights_name}: got {len(numbers)}, allowed is one for each of the {len(names)} "
            f"{names_name}"
        )
    for i, number in enumerate(numbers):
        if not (math.isfinite(number) and number >= 0):
            raise InputError(
                f"{weights_name}[{i}]: got {number}, allowed are finite numbers from 0 up"
            )
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise InputError(f"{names_name}: got {twice!r} twice, allowed is each name once")
    return dict(zip(names, numbers, strict=True))


def _frozen(extractor: Extractor) -> Extractor:
    """A copy that shares the parameters' memory and trains none of them."""
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in extractor.parameters()}
    return copy.deepcopy(extractor, dict(shared))


def _beside(kind: str, layer: str, wanted: Tensor, found: Tensor) -> Tensor:
    """``wanted`` for each of the images of ``found``."""
    if wanted.shape[1:] != found.shape[1:] or len(wanted) not in (1, len(found)):
        one, *rest = found.shape
        raise InputError(
            f"target: got {kind} of shape {tuple(wanted.shape)} at {layer}, allowed is "
            f"{(one, *rest)}, as x has there, or {(1, *rest)}"
        )
    return wanted.expand_as(found)


def _wide(x: Tensor) -> Tensor:
    """Squares of 16 bits are summed in float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
