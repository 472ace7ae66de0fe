"""A trained network in one file: safetensors, with what is needed to use it as metadata.

Every value of the metadata is a string; those that are not plain text are JSON.

| key | value |
|---|---|
| vggfast_format | "1" |
| net | configuration, "A" to "E" |
| num_classes, crop | whole numbers |
| batch_norm | true or false |
| classes | list of names, in the order of the logits |
| mean, std | lists of three numbers, per RGB channel on a 0-255 scale |
| scale | [S_min, S_max], the shorter sides of the training images in pixels |
| boxes | only of a network that localises: scr or pcr (vggfast/models/boxes.py) |

Tensors have torchvision's parameter names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vggfast.errors import InputError
from vggfast.files import write_atomically
from vggfast.models import huge_pages
from vggfast.models.boxes import BoxRegressor
from vggfast.models.vgg import VGG, vgg
from vggfast.weights.tensors import first_line, read_safetensors

FORMAT = "1"
_RESERVED = (
    "vggfast_format", "net", "num_classes", "crop", "batch_norm", "classes", "mean", "std", "scale",
    "boxes",
)  # fmt: skip
_ALLOWED = "allowed is a file written by vggfast.weights.save_weights"


@dataclass(frozen=True)
class Weights:
    """A trained network and how its images are made.

    Attributes:
        model: in eval mode, on the CPU.
        classes: names of the classes in the order of the logits.
        mean, std: per RGB channel on a 0-255 scale; images are (pixel - mean) / std.
        net: the configuration.
        crop: side in pixels of the square images it was trained on.
        scale: (S_min, S_max), the shorter sides its training images were rescaled to.
        extra: further metadata, as given to :func:`save_weights`.
    """

    model: VGG
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    net: str
    crop: int
    scale: tuple[int, int]
    extra: dict[str, str] = field(default_factory=dict)


def save_weights(
    path: Path | str,
    model: VGG,
    *,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    scale: tuple[int, int] | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write ``model`` to ``path`` atomically: a reader, or a crash, sees the old file or the new.

    Args:
        path: the file, by custom ``*.safetensors``.
        model: the network.
        classes, mean, std, scale: as :class:`Weights` has them; without ``scale`` it is the crop's
            side, which is right for images that are not rescaled before they are cropped.
        extra: more metadata, strings under names that are not taken.

    Raises:
        InputError: classes that are not as many as the outputs, a name that is taken, or a file
            that cannot be written.
    """
    path = Path(path)
    boxes = model.boxes if isinstance(model, BoxRegressor) else None
    outputs = model.num_classes if boxes is None else model.localised
    if len(classes) != outputs:
        raise InputError(
            f"classes: got {len(classes)} names, allowed are {outputs}, as many as the network "
            f"{'has outputs' if boxes is None else 'localises'}"
        )
    taken = next((name for name in extra or {} if name in _RESERVED), None)
    if taken is not None:
        raise InputError(f"extra: got {taken!r}, allowed are names that the format does not use")
    metadata = {
        "vggfast_format": FORMAT,
        "net": model.net,
        "num_classes": str(outputs),
        "crop": str(model.crop),
        "batch_norm": json.dumps(model.batch_norm),
        "classes": json.dumps(list(classes)),
        "mean": json.dumps([float(v) for v in mean]),
        "std": json.dumps([float(v) for v in std]),
        "scale": json.dumps(list(scale or (model.crop, model.crop))),
        **({} if boxes is None else {"boxes": boxes}),
        **(extra or {}),
    }
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    try:
        write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata))
    except (OSError, SafetensorError) as error:
        raise InputError(f"out: cannot write {path} ({first_line(error)})") from None


def loaded(
    path: Path | str,
    metadata: Mapping[str, str],
    tensors: dict[str, Tensor],
    *,
    backend: str | None = None,
    boxes: bool = False,
) -> Weights:
    """The network in a file that :func:`save_weights` wrote, of what :func:`read` reads there.

    Args:
        path: what an error calls the file.
        metadata, tensors: what is in it.
        backend: name of the backend to force for every op of the network, or None.
        boxes: whether a network that localises is wanted (:class:`BoxRegressor`), or one that
            classifies.

    Raises:
        InputError: bad metadata, tensors that do not fit its configuration (the message names the
            first and both shapes), or a network of the other kind.
    """
    check_kind(path, metadata, boxes)
    try:
        model = _empty(metadata, backend)
        weights = Weights(
            model=model.eval(),
            classes=tuple(map(str, json.loads(metadata["classes"]))),
            mean=_three(metadata["mean"]),
            std=_three(metadata["std"]),
            net=model.net,
            crop=model.crop,
            scale=_pair(metadata["scale"]),
            extra={name: text for name, text in metadata.items() if name not in _RESERVED},
        )
        if len(weights.classes) != int(metadata["num_classes"]):
            raise ValueError(f"{len(weights.classes)} names of {metadata['num_classes']} classes")
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"weights: {path} has bad metadata ({error}); {_ALLOWED}") from None
    wrong = first_mismatch(model.state_dict(), tensors)
    if wrong is not None:
        raise InputError(
            f"weights: {path} is not the net {model.net} that it says ({wrong}); {_ALLOWED}"
        )
    model.load_state_dict(tensors)
    return weights


def read(path: Path | str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors, on the CPU, of a file of this format.

    Raises:
        InputError: no such file, not safetensors, damaged, or of another program.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"weights: no file {path}; {_ALLOWED}")
    tensors, metadata = read_safetensors(path)
    check_format(path, metadata)
    return metadata, tensors


def check_format(path: Path | str, metadata: Mapping[str, str]) -> None:
    """Raise InputError if a file is not of this format, or of a later version of it."""
    if metadata.get("vggfast_format") != FORMAT:
        found = metadata.get("vggfast_format", "no vggfast_format")
        raise InputError(f"weights: {path} has {found} in its metadata; {_ALLOWED}, format 1")


def check_kind(path: Path | str, metadata: Mapping[str, str], boxes: bool) -> None:
    """Raise InputError if a network localises that is to classify, or the other way round."""
    if ("boxes" in metadata) != boxes:
        kinds = ("classifies, made by vggfast.train", "localises, made by vggfast.localize train")
        raise InputError(
            f"weights: {path} holds a network that {kinds[not boxes]}; allowed is one that "
            f"{kinds[boxes]}"
        )


def first_mismatch(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """The first tensor, in the order of ``wanted``, whose name or shape differs; None: all fit."""
    return next(mismatches(wanted, found), None)


def mismatches(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[str]:
    """Each tensor, in the order of ``wanted``, whose name or shape differs."""
    for name, tensor in wanted.items():
        if name not in found:
            yield f"{name} of shape {tuple(tensor.shape)} is missing"
        elif found[name].shape != tensor.shape:
            yield f"{name} has shape {tuple(found[name].shape)}, not {tuple(tensor.shape)}"
    for name, tensor in found.items():
        if name not in wanted:
            yield f"{name} of shape {tuple(tensor.shape)} is one too many"


def _empty(metadata: Mapping[str, str], backend: str | None) -> VGG:
    """The network the metadata describes, its memory not written yet."""
    batch_norm: Any = json.loads(metadata["batch_norm"])
    net, classes = metadata["net"], int(metadata["num_classes"])
    options: Any = {
        "batch_norm": bool(batch_norm), "crop": int(metadata["crop"]), "backend": backend,
    }  # fmt: skip
    with torch.device("meta"):  # spares drawing weights that are overwritten
        model: VGG
        if "boxes" in metadata:
            model = BoxRegressor(net, boxes=metadata["boxes"], classes=classes, **options)
        else:
            model = vgg(net, num_classes=classes, **options)
    empty: VGG = model.to_empty(device="cpu")
    huge_pages.advise_all(empty)
    return empty


def _three(text: str) -> tuple[float, ...]:
    numbers = tuple(float(v) for v in json.loads(text))
    if len(numbers) != 3:
        raise ValueError(f"{len(numbers)} numbers instead of 3")
    return numbers


def _pair(text: str) -> tuple[int, int]:
    low, high = json.loads(text)
    return int(low), int(high)
