"""What the commands share: a parser whose errors are one line, and exit codes."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from vggfast.errors import InputError

# Exit codes; the last two are the shells' for SIGINT and SIGTERM.
FAILED, BAD_INPUT, INTERRUPTED, STOPPED = 1, 2, 130, 143


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises :class:`InputError` for a bad option."""

    def error(self, message: str) -> NoReturn:
        # One line, without the usage that argparse would put before it.
        raise InputError(f"{' '.join(message.split())} (see --help)")


def fail(error: object, code: int) -> int:
    """Tell ``error`` in one line; return ``code``."""
    print(f"error: {error}", file=sys.stderr)
    return code
