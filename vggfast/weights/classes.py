"""A file of class names: a line each, or JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vggfast.errors import InputError

_ALLOWED = (
    "allowed are text with a name a line, a JSON list of names, and a JSON object from numbers to "
    'names or to pairs such as ["n01440764", "tench"]'
)


def read_classes(path: str | Path) -> tuple[str, ...]:
    """The names in the order of the logits.

    Raises:
        InputError: a file that cannot be read, or that holds something else.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        given: Any = json.loads(text) if path.suffix.lower() == ".json" else None
    except OSError as error:
        raise InputError(f"classes: cannot read {path} ({error.strerror}); {_ALLOWED}") from None
    except ValueError as error:  # of UTF-8 or of JSON
        raise InputError(f"classes: cannot read {path} ({error}); {_ALLOWED}") from None
    if given is None:
        names: list[Any] = text.strip("\n").splitlines()
    elif isinstance(given, dict):
        try:
            names = [given[str(i)] for i in range(len(given))]
        except KeyError as error:
            raise InputError(f"classes: {path} has no number {error}; {_ALLOWED}") from None
        names = [name[-1] if isinstance(name, list) and name else name for name in names]
    else:
        names = given if isinstance(given, list) else []
    empty = next((i for i, n in enumerate(names) if not isinstance(n, str) or not n.strip()), None)
    if empty is not None or not names:
        where = "no names" if empty is None else f"no name of class {empty}"
        raise InputError(f"classes: {path} has {where}; {_ALLOWED}")
    return tuple(name.strip() for name in names)


def are_numbers(classes: tuple[str, ...]) -> bool:
    """Whether classes have no names but their numbers."""
    return classes == tuple(map(str, range(len(classes))))
