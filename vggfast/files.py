"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk, then rename it to ``path``.

    If ``write`` fails or is interrupted, ``path`` is as it was and the new file is gone.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; safetensors gives others no access
        write(temporary)
        temporary.chmod(mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
