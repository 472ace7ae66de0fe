"""A network from a file of weights: one of ``vggfast.engine.weights``, or torchvision's state dict.

A state dict says its configuration by its tensors' names and shapes; it may be of ``features``
alone. Its images are normalised as torchvision's weights want it.
"""

from __future__ import annotations

import pickle
import zipfile
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vggfast.configs import DOWNSAMPLING, NETS
from vggfast.engine.weights import first_mismatch, load_weights
from vggfast.errors import InputError
from vggfast.models.vgg import vgg
from vggfast.taps.normalize import IMAGENET

_ALLOWED = "allowed is a file of vggfast.train, or a state dict with torchvision's names"
_FIRST_FC = "classifier.0.weight"


class Pretrained(NamedTuple):
    """A network in eval mode on the CPU, and the moments of RGB, on a 0-255 scale, that it wants.

    ``model`` is a :class:`vggfast.VGG`, or the ``features`` of one where the file has no more.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_pretrained(path: str | PathLike[str]) -> Pretrained:
    """Read weights.

    Args:
        path: what ``save_weights`` wrote, or a state dict in safetensors or of ``torch.save``.

    Raises:
        InputError: no such file, a damaged one, or tensors of no configuration A to E.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"model: no file {path}; {_ALLOWED}")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    if tensors is None:
        weights = load_weights(path)
        return Pretrained(weights.model, weights.mean, weights.std)
    mean, std = (tuple(map(float, values)) for values in IMAGENET)
    return Pretrained(_network(path, tensors), mean, std)


def _safetensors(path: Path) -> dict[str, Tensor] | None:
    """The tensors, or None where the file says by its metadata which network it is."""
    try:
        with safe_open(path, "pt", "cpu") as file:
            if "vggfast_format" in (file.metadata() or {}):
                return None
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _torch_file(path: Path) -> dict[str, Tensor]:
    try:
        given: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None
    if not isinstance(given, dict) or not all(isinstance(t, Tensor) for t in given.values()):
        raise InputError(f"model: {path} holds no state dict; {_ALLOWED}")
    return dict(given)


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
    return InputError(f"model: cannot read {path} ({reason}); {_ALLOWED}")


def _network(path: Path, tensors: dict[str, Tensor]) -> nn.Module:
    """The configuration whose tensors these are, with them."""
    if "0.weight" in tensors:  # of vgg.features
        tensors = {f"features.{name}": t for name, t in tensors.items()}
    whole = _FIRST_FC in tensors
    options: dict[str, int] = {"num_classes": 1, "crop": DOWNSAMPLING}
    if whole:
        pixels = tensors[_FIRST_FC].shape[-1] // 512
        options["crop"] = DOWNSAMPLING * max(1, round(pixels**0.5))
        last = tensors.get("classifier.6.bias")
        options["num_classes"] = 1 if last is None else max(1, last.numel())
    for net, batch_norm in product(NETS, (False, True)):
        with torch.device("meta"):  # spares drawing weights that are not used
            model: nn.Module = vgg(net, batch_norm=batch_norm, **options)  # type: ignore[arg-type]
        prefix = "" if whole else "features."
        wanted = {name: t for name, t in model.state_dict().items() if name.startswith(prefix)}
        if first_mismatch(wanted, tensors) is None:
            break
    else:
        raise InputError(f"model: {path} has the tensors of none of {', '.join(NETS)}; {_ALLOWED}")
    part = model if whole else model.features
    assert isinstance(part, nn.Module), "features are a Sequential"
    own = {name.removeprefix("" if whole else "features."): t for name, t in tensors.items()}
    part.load_state_dict(own, assign=True)
    return part.float().requires_grad_(True).eval()
