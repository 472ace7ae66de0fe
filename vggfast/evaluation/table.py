"""Results as a table in the paper's form: Markdown, CSV, or rich's on a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggfast.errors import InputError
from vggfast.evaluation.fusion import Row
from vggfast.evaluation.rates import Rate
from vggfast.files import write_atomically

HEADER = ("net", "S", "Q", "protocol", "top-1 error (%)", "top-5 error (%)")
SUFFIXES = (".md", ".csv")


def markdown(rows: Sequence[Row]) -> str:
    """Errors in per cent with their 95 % intervals."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    return "\n".join(lines + ["| " + " | ".join(_cells(row)) + " |" for row in rows]) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """Errors as fractions, with counts and interval ends in columns of their own."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rate = ("errors", "error", "low", "high")
    writer.writerow(
        ["net", "S", "Q", "protocol", "images", *(f"top{k}_{n}" for k in (1, 5) for n in rate)]
    )
    for row in rows:
        plain = [row.net, row.trained, _scales(row), row.protocol, row.top1.images]
        writer.writerow([*plain, *_numbers(row.top1), *_numbers(row.top5)])
    return out.getvalue()


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain values, for JSON."""
    return [asdict(row) for row in rows]


def rich_table(rows: Sequence[Row]) -> Any:
    """A ``rich.table.Table``. Needs rich."""
    from rich.table import Table

    table = Table(*HEADER)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def check_suffix(path: Path) -> None:
    """Raise InputError if ``path`` names no kind of table."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"table: got {str(path)!r}, allowed are files *.md and *.csv")


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table to a .md or .csv file, atomically.

    Raises:
        InputError: another suffix, or it cannot be written.
    """
    check_suffix(path)
    text = markdown(rows) if path.suffix == ".md" else comma_separated(rows)
    write_text("table", path, text)


def write_text(option: str, path: Path, text: str) -> None:
    """Write a text file, atomically. Raises InputError, naming the option, if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda new: new.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{option}: cannot write {path} ({error})") from None


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.net, row.trained, _scales(row), row.protocol, _percent(row.top1), _percent(row.top5),
    )  # fmt: skip


def _scales(row: Row) -> str:
    return ",".join(str(q) for q in row.scales)


def _percent(rate: Rate | None) -> str:
    if rate is None:
        return "–"
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f}–{100 * rate.high:.1f})"


def _numbers(rate: Rate | None) -> list[Any]:
    return [""] * 4 if rate is None else [rate.errors, rate.value, rate.low, rate.high]
