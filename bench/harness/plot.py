"""The picture of a run: images/s of every contender, times per layer of the largest batch."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness import peers
from harness.contest import OURS
from harness.results import Record, atomically

COLOURS = {  # the order of the bars, too
    OURS: "#d1495b",
    **dict(
        zip(
            (p.name for p in peers.EVERY),
            ("#30638e", "#6d9dc5", "#5b7f58", "#8a8d91", "#edae49", "#7b4b94", "#3d5a3c"),
            strict=True,
        )
    ),
}
NOT_TIMED = float("nan")  # no bar and no label


def write_png(record: Record, path: Path) -> None:
    """Draw what was timed into ``path``."""
    tables = [key for key in record.tables() if key[1] == "fprop"]
    panels: list[tuple[int, str] | None] = [None] if record.networks else []
    panels += sorted(tables)[-1:]
    # A Figure without pyplot draws through Agg and needs no display.
    figure = Figure(figsize=(11, 4.2 * max(1, len(panels))), layout="constrained")
    axes = figure.subplots(max(1, len(panels)), squeeze=False)[:, 0]
    o = record.options
    figure.suptitle(
        f"VGG-{o.net}, {o.size}x{o.size}, {o.dtype_told}, {_device(record)}, {record.commit}"
    )
    for ax, panel in zip(axes, panels, strict=False):
        if panel is None:
            _networks(ax, record)
        else:
            _layers(ax, record, *panel)
    atomically(path, lambda part: figure.savefig(part, format="png", dpi=110))


def _device(record: Record) -> str:
    m = record.machine
    return str(m["device"]) if record.options.on_gpu else f"{m['cpu']}, {m['threads']} threads"


def _networks(ax: Axes, record: Record) -> None:
    results = record.networks
    series = {}
    for name in _names([set(r.outcome.times) for r in results]):
        series[name] = [
            r.images_per_s(name) if name in r.outcome.times else NOT_TIMED for r in results
        ]
    _bars(ax, [f"{r.kind}\nbatch {r.batch}" for r in results], series, label=True)
    ax.set_ylabel("images/s")
    timed = [v for values in series.values() for v in values if v == v]
    if max(timed) > 20 * min(timed):
        ax.set_yscale("log")


def _layers(ax: Axes, record: Record, batch: int, kind: str) -> None:
    rows = record.tables()[batch, kind]
    series = {
        name: [
            1e3 * r.outcome.times[name].median if name in r.outcome.times else NOT_TIMED
            for r in rows
        ]
        for name in _names([set(r.outcome.times) for r in rows])
    }
    labels = [r.group.layer.name + (f"\n×{r.group.count}" if r.group.count > 1 else "")
              for r in rows]  # fmt: skip
    _bars(ax, labels, series, label=False)
    ax.set_ylabel("ms per layer")
    ax.set_title(f"{kind}, batch {batch}: convolution + bias + ReLU + pool", fontsize=10)


def _names(sets: list[set[str]]) -> list[str]:
    """The contenders of a panel, in the order of the colours."""
    found = set().union(*sets)
    return [name for name in COLOURS if name in found]


def _bars(ax: Axes, labels: list[str], series: dict[str, list[float]], label: bool) -> None:
    width = 0.8 / len(series)
    for i, (name, values) in enumerate(series.items()):
        places = [x + (i - (len(series) - 1) / 2) * width for x in range(len(labels))]
        bars = ax.bar(places, values, width, label=name, color=COLOURS[name])
        if label:
            ax.bar_label(bars, fmt="%.3g", fontsize=7, padding=1)
    ax.set_xticks(range(len(labels)), labels, fontsize=8)
    ax.margins(y=0.15)  # room for the legend
    ax.legend(fontsize=8, frameon=False, ncols=len(series), loc="upper right")
    ax.spines[["top", "right"]].set_visible(False)
