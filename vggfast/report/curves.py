"""Learning curves as SVG text, to stand in a page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from vggfast.data.base import require
from vggfast.report.runs import Run


def curves(runs: Sequence[Run]) -> str:
    """One SVG image: the first measure, loss and learning rate over the epochs."""
    matplotlib = require("matplotlib", "matplotlib")
    figures = require("matplotlib.figure", "matplotlib")
    # Text stays text, and the same runs give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vggfast"}):
        figure = figures.Figure(figsize=(15, 4.5), layout="constrained")
        accuracy, loss, rate = figure.subplots(1, 3)
        for number, run in enumerate(runs):
            _draw(run, f"C{number % 10}", accuracy, loss, rate)
        named = " or ".join(dict.fromkeys(run.measures[0] for run in runs))
        _label(accuracy, f"validation {named}, %")
        _label(loss, "loss: validation, and training (dashed)")
        _label(rate, "learning rate")
        rate.set_yscale("log")
        accuracy.legend(fontsize="small")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _draw(run: Run, colour: str, accuracy: Any, loss: Any, rate: Any) -> None:
    epochs = [row.epoch for row in run.history]
    common = {"color": colour, "marker": "." if len(epochs) < 30 else None}
    accuracy.plot(epochs, [100 * row.val_accuracy for row in run.history], label=run.name, **common)
    loss.plot(epochs, [row.val_loss for row in run.history], **common)
    loss.plot(epochs, [row.train_loss for row in run.history], linestyle="--", **common)
    rate.plot(epochs, [row.lr for row in run.history], **common)


def _label(axes: Any, title: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)
