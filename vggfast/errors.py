"""The errors vggfast raises on purpose: bad input, and a backend that cannot serve a call."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line: the argument, what was given, what is allowed.

    The commands (``python -m vggfast.train``, ``bench/run.py``) print it and exit with code 2.
    """


class BackendError(RuntimeError):
    """A forced backend cannot serve the call; the message carries ``explain``'s reason."""
