"""Patterns of shards: ``TRAIN.tar,VAL.tar``, where each may hold braces.

``{000..127}`` is every number of that width, ``{a,b}`` either text. A comma inside of braces
separates nothing else.
"""

from __future__ import annotations

import itertools
import re

from vggfast.errors import InputError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_COMMA = re.compile(r",(?![^{}]*\})")  # not inside of braces


def is_shards(data: str) -> bool:
    """Whether a ``--data`` argument names shards: one of its parts ends as a tar archive does."""
    return any(part.endswith((".tar", ".tgz", ".tar.gz")) for part in _COMMA.split(data))


def split(data: str) -> tuple[str, str | None]:
    """The training pattern and, if there is one, the validation pattern.

    Raises:
        InputError: more than two, or one that is empty or not of plain tar archives.
    """
    parts = _COMMA.split(data)
    if len(parts) > 2 or not all(part.endswith(".tar") for part in parts):
        raise InputError(
            f"data: got {data!r}, allowed are TRAIN.tar or TRAIN.tar,VAL.tar, not compressed; "
            "braces as in shards-{000..127}.tar"
        )
    return parts[0], parts[1] if len(parts) == 2 else None


def expand(pattern: str) -> list[str]:
    """The names that ``pattern`` stands for, in order.

    Raises:
        InputError: its braces do not match, or a range is empty.
    """
    pieces: list[list[str]] = []
    end = 0
    for match in _BRACES.finditer(pattern):
        pieces += [[pattern[end : match.start()]], _choices(match[1], pattern)]
        end = match.end()
    pieces.append([pattern[end:]])
    if any("{" in text or "}" in text for text, *_ in pieces[::2]):
        raise InputError(f"data: got {pattern!r}, whose braces do not match; allowed is {{00..15}}")
    return ["".join(names) for names in itertools.product(*pieces)]


def _choices(inside: str, pattern: str) -> list[str]:
    if not (numbers := _RANGE.fullmatch(inside)):
        return inside.split(",")
    first, last = numbers.groups()
    if int(last) < int(first):
        raise InputError(f"data: got {pattern!r}, whose range {{{inside}}} is empty")
    # As in a shell, numbers are padded where the range's ends are.
    padded = first.startswith("0") or last.startswith("0")
    width = max(len(first), len(last)) if padded else 0
    return [str(i).zfill(width) for i in range(int(first), int(last) + 1)]
