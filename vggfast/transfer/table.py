"""Results in the form of the paper's tables: a row for the features, a column for the measure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggfast.errors import InputError
from vggfast.evaluation.table import SUFFIXES, write_text
from vggfast.transfer.benchmarks import Outcome

HEADER = ("features", "dimension", "benchmark", "measure", "result (%)", "C")


def title(manifest: dict[str, Any]) -> str:
    """What features are of, as "D + E, relu7, Q = 256,384 stacked, image and box"."""
    settings, parts = manifest["settings"], manifest["parts"]
    nets = " + ".join(dict.fromkeys(part["net"] for part in parts))
    scales = ",".join(str(q) for q in sorted({q for part in parts for q in part["scales"]}))
    how = "stacked" if settings["combine"] == "stack" else "averaged"
    scales += f" {how}" if "," in scales else ""
    regions = " and ".join(dict.fromkeys(part["region"] for part in parts))
    return f"{nets}, {settings['layer']}, Q = {scales}, {regions}"


def titles(manifests: Sequence[dict[str, Any]]) -> str:
    """The same of folders that are stacked: one title where they differ in their networks alone."""
    first = manifests[0]
    for name in ("layer", "combine"):
        if any(m["settings"][name] != first["settings"][name] for m in manifests):
            return " + ".join(f"({title(m)})" for m in manifests)
    return title({**first, "parts": [part for m in manifests for part in m["parts"]]})


def rows(features: str, dimension: int, outcome: Outcome) -> list[tuple[str, ...]]:
    """A row for each measure."""
    found: list[tuple[str, ...]] = []
    for number, (measure, value) in enumerate(outcome.figures.items()):
        text = f"{100 * value:.1f}"
        if not number and outcome.deviation is not None:
            text += f" ± {100 * outcome.deviation:.1f}"
        chosen = ", ".join(f"{c:g}" for c in dict.fromkeys(outcome.c))
        found.append((features, str(dimension), outcome.benchmark, measure, text, chosen))
    return found


def markdown(table: Sequence[tuple[str, ...]], header: Sequence[str] = HEADER) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in table]) + "\n"


def comma_separated(features: str, dimension: int, outcome: Outcome) -> str:
    """Fractions, not per cent."""
    lines = ["features,dimension,benchmark,measure,value,deviation"]
    for number, (measure, value) in enumerate(outcome.figures.items()):
        deviation = "" if number or outcome.deviation is None else f"{outcome.deviation}"
        lines.append(
            f'"{features}",{dimension},{outcome.benchmark},"{measure}",{value},{deviation}'
        )
    return "\n".join(lines) + "\n"


def write(path: Path, features: str, dimension: int, outcome: Outcome) -> None:
    """Write the table to a .md or .csv file, atomically. Raises InputError if that fails."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"table: got {str(path)!r}, allowed are files *.md and *.csv")
    if path.suffix == ".md":
        text = markdown(rows(features, dimension, outcome))
    else:
        text = comma_separated(features, dimension, outcome)
    write_text("table", path, text)


def record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as plain values, for JSON."""
    return asdict(outcome)
