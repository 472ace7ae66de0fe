"""What the commands share: a parser whose errors are one line, exit codes, and ``vggfast NAME``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
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


COMMANDS = {
    "train": "train a network",
    "evaluate": "top-1 and top-5 error by the paper's protocols",
    "predict": "the likeliest classes of images",
    "localize": "boxes: train, evaluate, predict",
    "features": "features of images for other tasks, and classifiers on them",
    "convert": "weights of torchvision, timm or Caffe to ours, and back",
    "report": "compare training runs in one page",
    "tune": "time the GPU kernels' tiles and keep the fastest",
    "info": "what is available here, and why not the rest",
}


def main(argv: Sequence[str] | None = None) -> int:
    """``vggfast NAME ARGUMENTS``, the same as ``python -m vggfast.NAME ARGUMENTS``."""
    given = list(sys.argv[1:] if argv is None else argv)
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: vggfast COMMAND ...  (vggfast COMMAND --help tells more)\n")
        print("\n".join(f"  {command:<{width}}  {what}" for command, what in COMMANDS.items()))
        return 0 if given else BAD_INPUT
    if name not in COMMANDS:
        return fail(f"command: got {name!r}, allowed are {', '.join(COMMANDS)}", BAD_INPUT)
    # Imported by name: each brings what the others do not need.
    code: int = importlib.import_module(f"vggfast.{name}.cli").main(rest)
    return code
