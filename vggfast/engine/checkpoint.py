"""Checkpoints: written whole or not at all, read without running code from the file."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vggfast.errors import InputError
from vggfast.files import write_atomically

FORMAT = 2
KEYS = frozenset(
    {"format", "epoch", "position", "model", "ema", "optimizer", "schedule", "scaler", "rng",
     "settings", "data", "best", "history"}
)  # fmt: skip
# What zipfile and torch.load raise when a file is not what they expect.
_UNREADABLE = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, NotImplementedError,
    pickle.PickleError, zipfile.BadZipFile,
)  # fmt: skip


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically: a reader, or a crash, sees the old file or the new.

    Raises:
        InputError: it cannot be written, for instance because the disk is full.
    """
    try:
        write_atomically(path, lambda temporary: torch.save(state, temporary))
    except (OSError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"out: cannot write {path} ({reason[:100]}); it is as it was") from None


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with ``weights_only=True``.

    Raises:
        InputError: the file is missing, truncated, corrupt or not a checkpoint of vggfast.train.
    """
    allowed = "allowed is a checkpoint of vggfast.train"
    if not path.is_file():
        raise InputError(f"resume: no file {path}; {allowed}")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not look at the checksums
        if damaged is not None:
            raise ValueError(f"bad checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"resume: {path} is damaged ({reason[:100]}); {allowed}") from None
    if not isinstance(state, dict) or not set(state) >= KEYS or state["format"] != FORMAT:
        raise InputError(f"resume: {path} holds something else; {allowed}")
    return state


def copy(source: Path, target: Path) -> None:
    """Make ``target`` a second name of ``source``'s present content, atomically.

    A hard link where the file system has them: ``save`` gives ``source`` a new file each time, so
    a link keeps the old content and costs nothing.
    """

    def link(temporary: Path) -> None:
        try:
            temporary.unlink(missing_ok=True)
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)

    write_atomically(target, link)


def rng_state() -> dict[str, Any]:
    """The states of the random generators of torch (CPU, GPUs), numpy and python."""
    mt = np.random.get_state(legacy=False)
    version, words, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": [
            mt["state"]["key"].tolist(),
            int(mt["state"]["pos"]),
            int(mt["has_gauss"]),
            float(mt["gauss"]),
        ],
        "python": [version, list(words), gauss],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`rng_state` gave; GPUs that are not there are passed over."""
    torch.set_rng_state(state["torch"])
    for number, words in enumerate(state["cuda"]):
        if torch.cuda.is_available() and number < torch.cuda.device_count():
            torch.cuda.set_rng_state(words, number)
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
