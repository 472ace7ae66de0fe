"""The errors vggfast raises on purpose: bad input, a backend that cannot serve, a failed launch."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line: the argument, what was given, what is allowed.

    The commands (``python -m vggfast.train``, ``bench/run.py``) print it and exit with code 2.
    """


class BackendError(RuntimeError):
    """A forced backend cannot serve the call; the message carries ``explain``'s reason."""


class LaunchError(RuntimeError):
    """A CUDA kernel could not be launched; the message names the kernel, the shape and the reason.

    What a kernel does wrong while it runs shows later, at a call that waits for it.
    """
