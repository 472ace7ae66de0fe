"""The record of a run as tables for the console."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from harness import compare
from harness.contest import OURS, Outcome
from harness.layers import Row, sums
from harness.networks import NetworkResult
from harness.numerics import RULE, Check
from harness.results import Record

MIB = 1 << 20


def header(record: Record) -> str:
    """Machine, versions, commit and backends, a few plain lines."""
    machine = ", ".join(f"{k} {v}" for k, v in record.machine.items())
    found = ", ".join(f"{k} {v}" for k, v in record.versions.items())
    return f"machine: {machine}\nversions: {found}\ncommit: {record.commit}\n{record.backends}"


def numerics(checks: list[Check]) -> Table:
    """The worst check of every layer and quantity, by its share of the bound."""
    table = Table(title=f"numerics, worst case of each: {RULE}", title_justify="left")
    quantities = ("y", "dx", "dw", "db")
    table.add_column("layer")
    for q in quantities:
        table.add_column(f"{q}: error (baseline)", justify="right")
    for what in dict.fromkeys(c.what for c in checks if c.what != "network"):
        cells = []
        for q in quantities:
            of = [c for c in checks if (c.what, c.quantity) == (what, q)]
            cells.append(_worst(of) if of else "–")
        table.add_row(what, *cells)
    for c in checks:
        if c.what == "network":
            table.add_row(f"network, {c.quantity}", _worst([c]), "", "", "")
    return table


def rounding(record: Record) -> str:
    """What weights stored in bfloat16 cost, which no error of the run contains."""
    return (
        f"vggfast stores FC weights in bf16: rounding them moves the logits by "
        f"{record.rounding:.1e} (in float64, ||y - y'|| / ||y||). Errors are against the rounded "
        "weights, which the baselines have too, in fp32"
    )


def quantization(record: Record) -> str:
    """What e4m3 costs on random weights and images, batch by batch."""
    found = "; ".join(
        f"batch {b}: logits moved by {c.relative_error:.1e}, top-1 the same for "
        f"{100 * c.top1_agreement:.0f} % of {c.images} images"
        for b, c in record.quantization.items()
    )
    return f"e4m3 against the same network in bf16 (random weights and images): {found}"


def _worst(checks: list[Check]) -> str:
    worst = max(checks, key=lambda c: c.error.rel / c.bound)
    text = f"{worst.error.rel:.1e} ({worst.baseline:.1e})"
    return text if worst.passed else f"[bold red]{text} FAIL[/]"


def networks(record: Record) -> Table:
    """Inference and training: time, spread, images/s, TFLOP/s, ratio."""
    o = record.options
    table = Table(title=f"VGG-{o.net}, {o.size}x{o.size}, {o.dtype_told}", title_justify="left")
    for name in ("", "batch", "contender"):
        table.add_column(name)
    for name in ("median ms", "IQR ms", "n", "images/s", "TFLOP/s", "% of roof", "vggfast is"):
        table.add_column(name, justify="right")
    for r in record.networks:
        for name, s in r.outcome.times.items():
            style = "bold" if name == OURS else None
            table.add_row(
                r.kind, str(r.batch), name, f"{1e3 * s.median:.2f}", f"{1e3 * s.iqr:.2f}",
                str(s.n), f"{r.images_per_s(name):.2f}", f"{r.tflops(name):.3f}",
                _roof(record, r.tflops(name)), _against(r.outcome, name), style=style,
            )  # fmt: skip
        _skipped_rows(table, r)
        table.add_section()
    return table


def _skipped_rows(table: Table, r: NetworkResult) -> None:
    for name, why in r.outcome.skipped.items():
        table.add_row(r.kind, str(r.batch), name, "not timed", *["–"] * 5, escape(why), style="dim")


def peers(record: Record) -> Table:
    """What the baselines of inference are, and how far they are off on the images timed."""
    table = Table(title="baselines of inference: what they run", title_justify="left")
    for name in ("batch", "contender", "version", "dtype", "layout", "settings"):
        table.add_column(name)
    table.add_column("error against float64 (allowed)", justify="right")
    for r in record.networks:
        for name, f in r.facts.items():
            told = [str(f[k]) for k in ("version", "dtype", "layout", "settings")]
            error = f"{f['error']:.1e} ({f['allowed']:.1e})"
            table.add_row(str(r.batch), name, *(escape(t) for t in told), error)
    return table


def _roof(record: Record, tflops: float) -> str:
    c = record.ceilings
    return f"{100 * tflops / c.roof_tflops:.0f}" if c else "–"


def _against(outcome: Outcome, name: str) -> str:
    if name == OURS or OURS not in outcome.times:
        return ""
    return f"[bold]{outcome.paired[name]}[/]".replace("× [", "× \\[")


def layers(record: Record, batch: int, kind: str, rows: list[Row]) -> Table:
    """One pass of every layer at one batch, and the sum."""
    names = list(dict.fromkeys(n for r in rows for n in r.outcome.times))
    table = Table(
        title=f"layers, {kind}, batch {batch}, {record.options.dtype_told}: medians in ms, GFLOP/s",
        title_justify="left",
    )
    table.add_column("layer")
    table.add_column("C_in→C_out, map")
    for name in names:
        table.add_column(f"{name} ms", justify="right")
        table.add_column("GFLOP/s", justify="right")
    table.add_column("vs best", justify="right")
    for r in rows:
        layer = r.group.layer
        shape = f"{layer.c_in}→{layer.c_out}, {layer.h}×{layer.w}" + (" pool" if layer.pool else "")
        cells = []
        for name in names:
            s = r.outcome.times.get(name)
            cells += ["–", "–"] if s is None else [
                f"{1e3 * s.median:.3f}", f"{r.gflops(name):.0f}" if r.flop else "–"
            ]  # fmt: skip
        best = r.outcome.best()
        name = r.group.layer.name + (f" ×{r.group.count}" if r.group.count > 1 else "")
        table.add_row(name, shape, *cells, f"{best[1]:.2f}×" if best else "–")
    table.add_section()
    total, flop = sums(rows), sum(r.flop * r.group.count for r in rows)
    cells = []
    for name in names:
        cells += [f"{1e3 * total[name]:.2f}", f"{flop / total[name] / 1e9:.0f}"] if (
            name in total) else ["–", "–"]  # fmt: skip
    others = [s for name, s in total.items() if name != OURS]
    ratio = f"{min(others) / total[OURS]:.2f}×" if others else "–"
    table.add_row("sum of layers", "", *cells, ratio, style="bold")
    return table


def memory(record: Record) -> Table:
    """Peak RSS of each step in a process of its own."""
    table = Table(title="peak memory of the process (RSS), MiB", title_justify="left")
    for name in ("", "batch", "contender"):
        table.add_column(name)
    for name in ("before the calls", "peak", "of ours"):
        table.add_column(name, justify="right")
    for m in record.memory:
        for name, most in m.peak.items():
            ratio = None if name == OURS else m.ratio(name)
            peak_text = f"{most / MIB:.0f}" + ("" if m.of_calls else " (with building)")
            table.add_row(
                m.kind, str(m.batch), name, f"{m.before[name] / MIB:.0f}", peak_text,
                "" if ratio is None else f"{ratio:.2f}×", style="bold" if name == OURS else None,
            )  # fmt: skip
        for name, why in m.skipped.items():
            table.add_row(m.kind, str(m.batch), name, "–", "–", escape(why), style="dim")
    return table


def comparisons(record: Record, what: str) -> Table:
    """Two settings, timed in turns in two processes."""
    table = Table(title=compare.title(what, record.options), title_justify="left")
    for name in ("", "batch", "contender"):
        table.add_column(name)
    for name in ("median ms", "IQR ms", "n", "vggfast is"):
        table.add_column(name, justify="right")
    table.add_column("runs on")
    for c in record.comparisons:
        if c.what != what:
            continue
        for name, s in c.outcome.times.items():
            table.add_row(
                c.kind, str(c.batch), name, f"{1e3 * s.median:.2f}", f"{1e3 * s.iqr:.2f}",
                str(s.n), _against(c.outcome, name), escape("; ".join(_libraries(c.isa[name]))),
                style="bold" if name == OURS else None,
            )  # fmt: skip
        for name, why in c.outcome.skipped.items():
            table.add_row(c.kind, str(c.batch), name, *["–"] * 4, escape(why), style="dim")
    return table


def _libraries(told: list[str]) -> list[str]:
    """What each library says in general; which kernel served what is in the JSON."""
    return [line for line in told if not line.startswith("oneDNN ")]


def show(record: Record, console: Console) -> None:
    """Print every table the record has."""
    for (batch, kind), rows in record.tables().items():
        console.print(layers(record, batch, kind, rows))
    if record.networks:
        console.print(networks(record))
        if any(r.facts for r in record.networks):
            console.print(peers(record))
    if record.memory:
        console.print(memory(record))
    for what in dict.fromkeys(c.what for c in record.comparisons):
        console.print(comparisons(record, what))
    c = record.ceilings
    if c is not None:
        console.print(
            f"ceilings measured with torch: GEMM {c.gemm_size}³ {record.options.plain_dtype_name} "
            f"{c.gemm_tflops:.3g} TFLOP/s, 3x3 convolution {c.conv_tflops:.3g} TFLOP/s, copy "
            f"{c.copy_gbps:.3g} GB/s (read + write); the roof is the larger TFLOP/s. All count the "
            "direct algorithm's operations, so Winograd may pass it"
        )
    if record.same:
        console.print(f"same kernels: {record.same}")
    for what, why in record.all_skipped():
        console.print(f"not timed: {what}: {why}", highlight=False, markup=False)
