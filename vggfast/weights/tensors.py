"""The tensors of a file by their names: safetensors, ``torch.save`` or NumPy's ``.npz``.

No code of a file is run: a pickle that wants to is refused.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggfast.errors import InputError

ALLOWED = (
    "allowed are files of vggfast.train and state dicts of VGG (torchvision's, timm's, Caffe's) as "
    ".safetensors, .pth or .npz"
)
_TORCH, _NUMPY = (".pth", ".pt", ".bin", ".ckpt", ".tar"), (".npz", ".npy")
# Where programs keep the state dict in what they save beside it, and what they put before names.
_INSIDE = ("state_dict", "model_state_dict", "model")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_UNREADABLE = (
    OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError,
    zipfile.BadZipFile,
)  # fmt: skip


class Stored(NamedTuple):
    """Tensors on the CPU, and the metadata of a safetensors file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path) -> Stored:
    """What a file holds, by its ending, or by its first bytes where that says nothing.

    A state dict may lie inside a dict under the usual names, and its names may have the prefixes
    of wrappers (``module.``): those are taken away.

    Raises:
        InputError: no such file, a damaged one, one that holds code, or no state dict.
    """
    if not path.is_file():
        raise InputError(f"weights: no file {path}; {ALLOWED}")
    kind = _kind(path)
    if kind == "safetensors":
        tensors, metadata = read_safetensors(path)
        if "vggfast_format" in metadata:
            return Stored(tensors, metadata)
    else:
        tensors, metadata = (_torch if kind == "torch" else _numpy)(path), {}
    return Stored(_unwrapped(tensors), metadata)


def read_safetensors(path: Path) -> Stored:
    """Tensors and metadata as they are in a safetensors file.

    Raises:
        InputError: it is not one, or damaged.
    """
    try:
        with safe_open(path, "pt", "cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"weights: {path} is not a whole safetensors file ({first_line(error)}); {ALLOWED}"
        ) from None
    return Stored(tensors, metadata)


def first_line(error: BaseException) -> str:
    """What an error says, in one line that is not too long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:100]


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _NUMPY:
        return "numpy"
    if suffix in _TORCH:
        return "torch"
    if suffix == ".safetensors":
        return "safetensors"
    with path.open("rb") as file:
        start = file.read(2)
    return "torch" if start == b"PK" or start[:1] == b"\x80" else "safetensors"


def _torch(path: Path) -> dict[str, Tensor]:
    try:
        given: Any = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code is not None:
            raise _has_code(path, code[1]) from None
        raise _unreadable(path, error) from None
    if isinstance(given, dict) and {"optimizer", "rng", "history"} <= set(given):
        raise InputError(
            f"weights: {path} is a checkpoint to resume from, without the images' mean and "
            "deviation; allowed is best.safetensors or last.safetensors beside it"
        )
    if isinstance(given, dict):
        for name in _INSIDE:
            if isinstance(given.get(name), dict):
                given = given[name]
                break
    if not isinstance(given, dict) or not given or not all(map(_is_named_tensor, given.items())):
        raise InputError(f"weights: {path} holds no state dict; {ALLOWED}")
    return {name: tensor.detach() for name, tensor in given.items()}


def _is_named_tensor(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _numpy(path: Path) -> dict[str, Tensor]:
    try:
        given = np.load(path, allow_pickle=False)
        if not isinstance(given, np.lib.npyio.NpzFile):
            raise InputError(f"weights: {path} holds one array without a name; {ALLOWED}")
        with given:
            arrays = {name: np.ascontiguousarray(given[name]) for name in given.files}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    except InputError:
        raise
    except (*_UNREADABLE, TypeError) as error:
        if "pickle" in str(error):
            raise _has_code(path, "a pickled object") from None
        raise _unreadable(path, error) from None


def _has_code(path: Path, what: str) -> InputError:
    return InputError(
        f"weights: {path} is a pickle that would run code ({what}) and is not read; save its "
        f"tensors alone, as torch.save(model.state_dict(), file) does; {ALLOWED}"
    )


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"weights: cannot read {path} ({first_line(error)}); {ALLOWED}")


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        prefix = next((p for p in _WRAPPERS if all(n.startswith(p) for n in tensors)), None)
        if prefix is None or not tensors:
            return tensors
        tensors = {name.removeprefix(prefix): t for name, t in tensors.items()}
