"""The command: run folders in, one HTML file out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vggfast.command import BAD_INPUT, Parser, fail
from vggfast.errors import InputError
from vggfast.files import write_atomically
from vggfast.report.page import page
from vggfast.report.runs import read


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after bad input."""
    try:
        options = _parser().parse_args(argv)
        text = page(read(options.runs))
        try:
            write_atomically(options.out, lambda path: path.write_text(text, encoding="utf-8"))
        except OSError as error:
            raise InputError(f"out: cannot write {options.out} ({error.strerror})") from None
    except InputError as error:
        return fail(error, BAD_INPUT)
    print(f"wrote {options.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.report",
        description="Compare training runs in one HTML page that needs no network.",
    )
    p.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of vggfast.train or vggfast.localize train",
    )
    p.add_argument("--out", type=Path, default=Path("report.html"), help="report.html")
    return p
