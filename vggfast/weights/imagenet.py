"""torchvision's weights, trained on ImageNet, where ``torch.hub`` keeps what it has downloaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from vggfast.errors import InputError

ADDRESS = "https://download.pytorch.org/models/"
# By configuration and batch normalisation, the newest first: torchvision replaced those of A and B.
# The digits are the first of the file's SHA-256.
FILES: dict[tuple[str, bool], tuple[str, ...]] = {
    ("A", False): ("vgg11-8a719046.pth", "vgg11-bbd30ac9.pth"),
    ("A", True): ("vgg11_bn-6002323d.pth",),
    ("B", False): ("vgg13-19584684.pth", "vgg13-c768596a.pth"),
    ("B", True): ("vgg13_bn-abd245e5.pth",),
    ("D", False): ("vgg16-397923af.pth",),
    ("D", True): ("vgg16_bn-6c64b313.pth",),
    ("E", False): ("vgg19-dcbb9e9d.pth",),
    ("E", True): ("vgg19_bn-c79401a0.pth",),
}


def find(net: str, batch_norm: bool) -> Path:
    """The file of a configuration in torch.hub's folder, its digest checked.

    Raises:
        InputError: there are no such weights; or no such file, and the message says from where to
            fetch it and where to put it; or the file is not what its name says.
    """
    files = FILES.get((net, batch_norm))
    if files is None:
        nets = ", ".join(dict.fromkeys(net for net, _ in FILES))
        raise InputError(f"net: got {net!r} with weights='imagenet', allowed are {nets}")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for name in files:
        path = folder / name
        if path.is_file():
            _check_digest(path)
            return path
    path = folder / files[0]
    raise InputError(
        f"weights: got 'imagenet', but there is no file {path}, and nothing is downloaded here; "
        f"fetch {ADDRESS}{files[0]} and put it there (TORCH_HOME moves the folder), or give a file"
    )


def _check_digest(path: Path) -> None:
    wanted = path.stem.rsplit("-", 1)[1]
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(wanted):
        raise InputError(
            f"weights: {path} is damaged: its SHA-256 begins with {digest.hexdigest()[:8]}, not "
            f"with {wanted}; fetch {ADDRESS}{path.name} again"
        )
