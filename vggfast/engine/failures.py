"""Failures of torch's that the user can do something about, as one line."""

from __future__ import annotations

import torch

from vggfast.errors import InputError

# As torch's CPU allocator says it, which has no exception of its own.
_NO_MEMORY = ("can't allocate memory", "not enough memory")


def explained(error: RuntimeError | MemoryError, batch: str) -> InputError | None:
    """The line that says what to do, or None for any other error.

    ``batch`` is the setting that says how many images are computed at a time.
    """
    text = str(error).strip()
    memory = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if memory or any(said in text for said in _NO_MEMORY):
        return InputError(
            f"{batch}: out of memory ({_first_line(text)}); allowed are fewer images at a time"
        )
    if text.startswith("DataLoader worker"):
        return InputError(
            f"workers: one has ended ({_first_line(text)}); allowed are as many as memory, and "
            "/dev/shm, have room for"
        )
    return None


def _first_line(text: str) -> str:
    return text.splitlines()[0][:160].rstrip(" .") if text else "nothing more is said"
