"""The command: the facts as text, or as JSON for a report."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from typing import Any

from vggfast.command import BAD_INPUT, Parser, fail
from vggfast.errors import InputError
from vggfast.info.collect import Facts, collect


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, whatever is missing here, or 2 after a bad option."""
    try:
        options = _parser().parse_args(argv)
    except InputError as error:
        return fail(error, BAD_INPUT)
    facts = collect()
    print(json.dumps(facts, indent=1, default=str) if options.json else "\n".join(text(facts)))
    return 0


def text(facts: Facts) -> Iterator[str]:
    """Lines for a reader: a section each, then its facts."""
    for section, found in facts.items():
        if not isinstance(found, dict):
            yield f"{section}: {found}"
            continue
        yield section
        if section == "extras":
            yield from (f"  {name:<8} {_extra(about)}" for name, about in found.items())
            continue
        width = max(map(len, found), default=0)
        for name, value in found.items():
            if name == "explain":
                yield from (f"  {line}" for line in str(value).splitlines())
            elif isinstance(value, dict):
                yield from (f"  {key:<8} {told}" for key, told in value.items())
            elif isinstance(value, list):
                yield from (f"  {name:<{width}}  {each}" for each in value)
            else:
                yield f"  {name:<{width}}  {_word(value)}"


def _extra(about: dict[str, Any]) -> str:
    if not about["missing"]:
        return "installed"
    return f"lacks {', '.join(about['missing'])}: {about['install']}"


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.info",
        description="What vggfast can use on this machine, and why not the rest.",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    return p
