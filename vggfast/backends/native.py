"""The one place that loads ``vggfast._native``, on first use, and keeps the error if it cannot."""

from __future__ import annotations

import importlib
from functools import lru_cache
from types import ModuleType

import torch  # noqa: F401  - before the extension, so that both share one OpenMP runtime


@lru_cache(maxsize=1)
def _load() -> tuple[ModuleType | None, ImportError | None]:
    try:
        return importlib.import_module("vggfast._native"), None
    except ImportError as error:
        return None, error


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
