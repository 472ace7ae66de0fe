"""Arguments to session; what goes wrong becomes one line and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console

from harness import numerics, options, session
from vggfast import InputError, exact

PLAIN_WIDTH = 160  # tables in a log file are not cut at 80 columns


def main(argv: Sequence[str]) -> int:
    """Run the benchmark; 0: measured, 1: numerics failed, 2: bad input, 130: interrupted."""
    try:
        chosen = options.parse(argv)
    except InputError as error:
        return _say(f"error: {error}", 2)
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    try:
        with exact(chosen.exact):
            session.run(chosen, console)
    except numerics.NumericsError as error:
        return _say(f"{error}\nnothing was timed: {len(error.failed)} checks failed", 1)
    except OSError as error:  # the folder was checked at the start: a full disk, a lost mount
        return _say(f"error: --out: {error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _say("interrupted; nothing was written", 130)
    return 0


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code
