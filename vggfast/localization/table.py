"""Results of localisation as a table, Markdown or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vggfast.evaluation.rates import Rate
from vggfast.evaluation.table import check_suffix, write_text

HEADER = (
    "net", "boxes", "S", "Q", "protocol", "localisation error (%)", "top-1 (%)", "class error (%)",
    "mean IoU",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A line of the results.

    Attributes:
        net, boxes, trained: configuration, scr or pcr, and S of each regressor.
        scales: test scales Q.
        protocol: centre or full.
        error: of images for which no box of the classes looked at is right.
        first: the same with the likeliest class alone; None for the true class's.
        classes: of images whose class is none of those looked at; None for the true class's.
        mean_iou: of the true class's boxes with the truth; None in the full protocol.
    """

    net: str
    boxes: str
    trained: str
    scales: tuple[int, ...]
    protocol: str
    error: Rate
    first: Rate | None = None
    classes: Rate | None = None
    mean_iou: float | None = None


def markdown(rows: Sequence[Row], names: Sequence[str] = ()) -> str:
    """Errors in per cent with their 95 % intervals; ``names``, if given, are a first column."""
    first = [[name] for name in names] if names else [[] for _ in rows]
    header = ["training", *HEADER] if names else HEADER
    lines = [header, ["---"] * len(header)]
    lines += [[*name, *_cells(row)] for name, row in zip(first, rows, strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write the table to a .md or .csv file. Raises InputError if it cannot."""
    check_suffix(path)
    text = markdown(rows) if path.suffix == ".md" else _comma_separated(rows)
    write_text("table", path, text)


def _comma_separated(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    rates = ("error", "first", "classes")
    writer.writerow(
        [
            "net",
            "boxes",
            "S",
            "Q",
            "protocol",
            "images",
            *rates,
            "error_low",
            "error_high",
            "mean_iou",
        ]
    )
    for row in rows:
        values = [getattr(row, name) for name in rates]
        writer.writerow(
            [row.net, row.boxes, row.trained, _scales(row), row.protocol, row.error.images]
            + ["" if rate is None else rate.value for rate in values]
            + [row.error.low, row.error.high, "" if row.mean_iou is None else row.mean_iou]
        )
    return out.getvalue()


def _cells(row: Row) -> tuple[str, ...]:
    iou = "–" if row.mean_iou is None else f"{row.mean_iou:.3f}"
    rates = tuple(map(_percent, (row.error, row.first, row.classes)))
    return (row.net, row.boxes, row.trained, _scales(row), row.protocol, *rates, iou)


def _scales(row: Row) -> str:
    return ",".join(map(str, row.scales))


def _percent(rate: Rate | None) -> str:
    if rate is None:
        return "–"
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f}–{100 * rate.high:.1f})"
