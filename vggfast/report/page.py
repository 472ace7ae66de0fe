"""The page: everything in one file, no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from vggfast.engine.history import ACCURACIES
from vggfast.report.curves import curves
from vggfast.report.runs import Run, differing

STYLE = """
body { font-family: sans-serif; margin: 2em auto; max-width: 80em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: 0.3em 0.8em; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
"""


def page(runs: Sequence[Run]) -> str:
    """HTML that compares ``runs``: curves, best accuracies, and the settings that differ."""
    parts = [
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>",
        f"<title>Training runs</title><style>{STYLE}</style></head><body>",
        "<h1>Training runs</h1>",
        curves(runs),
        "<h2>Results</h2>",
        _results(runs),
        "<h2>Settings</h2>",
        *_settings(runs),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _results(runs: Sequence[Run]) -> str:
    first, second = (
        " or ".join(dict.fromkeys(names)) for names in zip(*map(_shown, runs), strict=True)
    )
    head = (
        "run", "net", "epochs", f"best {first}, %", "its epoch", f"{second} there, %", "images/s",
        "waited for images, %", "training, h",
    )  # fmt: skip
    rows = []
    for run in runs:
        best, seconds = run.best, run.seconds
        images = sum(row.images_per_s * row.seconds for row in run.history)
        rows.append((
            run.name, run.settings.get("net"), f"{len(run.history)}/{run.settings.get('epochs')}",
            f"{100 * best.val_accuracy:.2f}", best.epoch, f"{100 * best.val_top5:.2f}",
            f"{images / seconds:.1f}", f"{100 * sum(r.waited for r in run.history) / seconds:.1f}",
            f"{seconds / 3600:.2f}",
        ))  # fmt: skip
    return _table(head, rows)


def _shown(run: Run) -> tuple[str, str]:
    """The names of its measures as a table says them."""
    return ("top-1", "top-5") if run.measures == ACCURACIES else run.measures


def _settings(runs: Sequence[Run]) -> list[str]:
    differ = differing(runs)
    parts = []
    if len(runs) > 1:
        head = ("setting", *(run.name for run in runs))
        text = _table(head, [(name, *values) for name, values in differ.items()])
        parts.append(text if differ else "<p>The runs have the same settings.</p>")
    common = [(name, v) for name, v in runs[0].settings.items() if name not in differ]
    parts += ["<h3>In common</h3>" if len(runs) > 1 else "", _table(("setting", "value"), common)]
    return parts


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    def line(cells: Iterable[Any], tag: str) -> str:
        shown = ("–" if cell in (None, "") else cell for cell in cells)
        return "<tr>" + "".join(f"<{tag}>{escape(str(c))}</{tag}>" for c in shown) + "</tr>"

    return "\n".join(["<table>", line(head, "th"), *(line(r, "td") for r in rows), "</table>"])
