"""A network as a state dict of torchvision's or timm's, for programs that read those."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from vggfast.errors import InputError
from vggfast.files import write_atomically
from vggfast.models.vgg import VGG
from vggfast.weights.names import FC, spelled
from vggfast.weights.tensors import first_line

SPELLINGS = ("torchvision", "timm")


def state_dict(model: VGG, spelling: str) -> dict[str, Tensor]:
    """``model``'s tensors as torchvision or timm name and shape them, on the CPU."""
    names, made = spelled(model, spelling), {}
    for ours, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if spelling == "timm" and ours.startswith("classifier.") and tensor.dim() == 2:
            tensor = _as_convolution(names[ours], tensor, model.crop // 32)
        made[names[ours]] = tensor
    return made


def save_state_dict(path: Path, model: VGG, spelling: str) -> None:
    """Write :func:`state_dict` atomically, as safetensors or, by its ending, with ``torch.save``.

    Raises:
        InputError: another spelling or ending, or a file that cannot be written.
    """
    if spelling not in SPELLINGS:
        raise InputError(f"to: got {spelling!r}, allowed are {', '.join(SPELLINGS)}")
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"out: got {str(path)!r}, allowed are *.safetensors, *.pth and *.pt")
    tensors = state_dict(model, spelling)

    def write(temporary: Path) -> None:
        if suffix == ".safetensors":
            save_file(tensors, temporary, {"format": "pt"})
        else:
            torch.save(tensors, temporary)

    try:
        write_atomically(path, write)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(f"out: cannot write {path} ({first_line(error)})") from None


def _as_convolution(name: str, weight: Tensor, window: int) -> Tensor:
    """timm's first two FC layers are convolutions, its last is none."""
    first, second, _ = FC["timm"]
    if name == f"{first}.weight":
        return weight.unflatten(1, (-1, window, window))
    return weight[..., None, None] if name == f"{second}.weight" else weight
