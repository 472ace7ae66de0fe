"""VGG, configurations A to E (Simonyan & Zisserman 2014, table 1), on fused ops.

Module and parameter names, order and shapes are torchvision's: ``features.N``, ``avgpool``,
``classifier.N``; its state dicts load with ``strict=True``, and ``features[9]`` or
``features[:30]`` mean what they mean there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from vggfast import backends
from vggfast.configs import CONFIGS, DOWNSAMPLING, FC_WIDTH, check_net, fc_layers
from vggfast.errors import InputError
from vggfast.models import huge_pages
from vggfast.models.init import INITS, initialise
from vggfast.nn import FusedSequential


class VGG(nn.Module):
    """A VGG network. Build it with :func:`vgg`, whose arguments these are."""

    def __init__(
        self,
        net: str,
        *,
        num_classes: int = 1000,
        batch_norm: bool = False,
        dropout: float = 0.5,
        crop: int = 224,
        init: str = "kaiming",
        backend: str | None = None,
        recompute_first: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(net, num_classes, dropout, crop, init, backend)
        self.net, self.num_classes, self.crop, self.batch_norm = net, num_classes, crop, batch_norm
        self.features = FusedSequential(
            *_features(net, batch_norm), backend=backend, recompute_first=recompute_first
        )
        self.avgpool = nn.AdaptiveAvgPool2d(crop // DOWNSAMPLING)
        self.classifier = FusedSequential(*_classifier(num_classes, crop, dropout), backend=backend)
        initialise(self, init)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images x (N, 3, H, W), H, W >= 32.

        Raises:
            InputError: x has another shape or dtype than the parameters ask for.
        """
        if x.dim() != 4 or x.shape[1] != 3 or x.shape[2] < 32 or x.shape[3] < 32:
            raise InputError(
                f"x: got shape {tuple(x.shape)}, allowed is (N, 3, H, W) with H, W >= 32"
            )
        x = self.features(x)
        window = self.crop // DOWNSAMPLING
        if x.shape[2:] != (window, window):  # else the pool is the identity
            x = self.avgpool(x)
        y: Tensor = self.classifier(x.flatten(1))
        return y

    def extra_repr(self) -> str:
        norm = ", batch_norm" if self.batch_norm else ""
        return f"net={self.net}, num_classes={self.num_classes}, crop={self.crop}{norm}"


def vgg(
    net: str,
    *,
    num_classes: int = 1000,
    batch_norm: bool = False,
    dropout: float = 0.5,
    crop: int = 224,
    init: str = "kaiming",
    backend: str | None = None,
    recompute_first: bool = False,
) -> VGG:
    """Build configuration ``net``: "A", "A-LRN", "B", "C", "D" or "E".

    Args:
        net: the configuration (vgg11, 13, 16 and 19 are A, B, D and E).
        num_classes: outputs of the last layer.
        batch_norm: batch normalisation after each convolution (torchvision's ``_bn``).
        dropout: probability, after the first two FC layers.
        crop: the input size the classifier is built for, a multiple of 32: its first layer sees a
            map of crop/32 squared (224: 7x7, 32: 1x1). Other inputs are average-pooled to it.
        init: "kaiming" (He et al. 2015), "glorot" (2010), or "normal" (the paper's, sigma 0.01).
        backend: name of the backend to force for every op, or None for the automatic choice.
        recompute_first: in training on a GPU keep no output of the first convolution, a third of
            the maps that D keeps, but make it again in the backward pass.

    Raises:
        InputError: an argument out of range; the message names the allowed values.
    """
    return VGG(
        net,
        num_classes=num_classes,
        batch_norm=batch_norm,
        dropout=dropout,
        crop=crop,
        init=init,
        backend=backend,
        recompute_first=recompute_first,
    )


def _check_arguments(
    net: str, num_classes: int, dropout: float, crop: int, init: str, backend: str | None
) -> None:
    check_net(net)
    if num_classes < 1:
        raise InputError(f"num_classes: got {num_classes}, allowed is 1 or more")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout: got {dropout}, allowed is 0 <= dropout < 1")
    if crop < DOWNSAMPLING or crop % DOWNSAMPLING:
        raise InputError(f"crop: got {crop}, allowed are multiples of {DOWNSAMPLING} from it up")
    if init not in INITS:
        raise InputError(f"init: got {init!r}, allowed are {', '.join(INITS)}")
    if backend not in (None, "auto"):
        backends.get(backend)


def _features(net: str, batch_norm: bool) -> list[nn.Module]:
    modules: list[nn.Module] = []
    c_in = 3
    for item in CONFIGS[net]:
        if item == "M":
            modules.append(nn.MaxPool2d(kernel_size=2, stride=2))
        elif item == "LRN":
            # torch divides alpha by the window, the paper's formula does not.
            modules.append(nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0))
        else:
            c_out, kernel = item if isinstance(item, tuple) else (int(item), 3)
            modules.append(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2))
            if batch_norm:
                modules.append(nn.BatchNorm2d(c_out))
            modules.append(nn.ReLU(inplace=True))
            c_in = c_out
    return modules


def _classifier(num_classes: int, crop: int, dropout: float) -> list[nn.Module]:
    first, _, last = fc_layers(num_classes, crop)
    return [
        huge_pages.linear(first.c_in, FC_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        huge_pages.linear(FC_WIDTH, FC_WIDTH),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout),
        huge_pages.linear(FC_WIDTH, last.c_out),
    ]


def _builder(name: str, net: str, batch_norm: bool) -> Callable[..., VGG]:
    def build(**kwargs: Any) -> VGG:
        return vgg(net, batch_norm=batch_norm, **kwargs)

    build.__name__ = build.__qualname__ = name
    norm = " with batch normalisation" if batch_norm else ""
    build.__doc__ = f"Configuration {net}{norm}; keyword arguments as :func:`vgg` takes them."
    return build


vgg11, vgg11_bn = _builder("vgg11", "A", False), _builder("vgg11_bn", "A", True)
vgg13, vgg13_bn = _builder("vgg13", "B", False), _builder("vgg13_bn", "B", True)
vgg16, vgg16_bn = _builder("vgg16", "D", False), _builder("vgg16_bn", "D", True)
vgg19, vgg19_bn = _builder("vgg19", "E", False), _builder("vgg19_bn", "E", True)
