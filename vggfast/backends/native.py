"""The one place that loads ``vggfast._native``, on first use, and keeps the error if it cannot."""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from types import ModuleType

import torch  # before the extension, so that both share one OpenMP runtime


@lru_cache(maxsize=1)
def _load() -> tuple[ModuleType | None, ImportError | None]:
    try:
        lib = importlib.import_module("vggfast._native")
    except ImportError as error:
        return None, error
    if hasattr(os, "register_at_fork"):
        _survive_forks(lib)
    return lib, None


def _survive_forks(lib: ModuleType) -> None:
    """A child has none of its parent's OpenMP threads, and libgomp waits for them for ever.

    So they are ended before a fork; both sides start new ones when they need them. Where the
    runtime cannot end them, the child keeps to one thread, as a DataLoader's workers do.
    """
    ended = True

    def before() -> None:
        nonlocal ended
        ended = lib.end_threads()

    def in_child() -> None:
        if not ended:
            torch.set_num_threads(1)

    os.register_at_fork(before=before, after_in_child=in_child)


def why_missing() -> str | None:
    """Why the extension cannot be used, or None if it loads."""
    error = _load()[1]
    if error is None:
        return None
    return f"the native extension did not load ({error}); build it with 'pip install -e .'"


def module() -> ModuleType:
    """The extension module; ImportError with the original reason if it does not load."""
    loaded, error = _load()
    if loaded is None:
        raise ImportError(why_missing()) from error
    return loaded
