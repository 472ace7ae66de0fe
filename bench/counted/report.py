"""Predictions as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator

from counted.hardware import Hardware
from counted.model import Network, Prediction

SCHEMA = 1
WHAT = "predicted by counting (bench/roofline.py), never measured"


def lines(predictions: list[Prediction], gpu: Hardware) -> Iterator[str]:
    """A row a pass of a group of layers, at one batch."""
    yield (
        f"{'layer':<10} {'x':>2} {'pass':<6} {'GFLOP':>8} {'MB':>7}  {'tile':<40} {'useful':>6} "
        f"{'waves':>7} {'fill':>5} {'tensor':>8} {'L2':>8} {'memory':>8} {'extra':>7} {'ms':>8}  "
        "bound"
    )
    for p in predictions:
        t, ms = p.tiling, {name: f"{1e3 * s:.4f}" for name, s in p.limits.items()}
        tile, useful, waves, fill = "-", "-", "-", "-"
        if t is not None:
            tile, useful = t.tile.name, f"{t.useful:.0%}"
            waves = f"{t.programs / gpu.multiprocessors:.2f}"
            fill = f"{t.fill(gpu.multiprocessors):.0%}"
        yield (
            f"{p.group.names[0]:<10} {p.group.count:>2} {p.kind:<6} {p.work.flop / 1e9:>8.2f} "
            f"{p.work.bytes / 1e6:>7.1f}  {tile:<40} {useful:>6} {waves:>7} {fill:>5} "
            f"{ms.get('tensor', '-'):>8} {ms.get('l2', '-'):>8} {ms['memory']:>8} "
            f"{1e3 * (p.extra + p.joined):>7.4f} {1e3 * p.seconds:>8.4f}  {p.bound}"
        )


def network_line(n: Network) -> str:
    return (
        f"VGG-{n.net} {n.kind}, batch {n.batch}: {1e3 * n.seconds:.3f} ms, "
        f"{n.batch / n.seconds:.0f} images/s, {n.flop / n.seconds / 1e12:.0f} TFLOP/s "
        f"({n.roof / n.seconds:.0%} of the GEMM's rate); {1e3 * n.without_l2:.3f} ms, "
        f"{n.batch / n.without_l2:.0f} images/s if the L2 is no limit"
    )


def as_dict(
    predictions: dict[tuple[str, int], list[Prediction]],
    networks: list[Network],
    dtype: str,
    size: int,
    gpu: Hardware,
) -> dict[str, object]:
    """The JSON document; ``predictions`` by network and batch."""
    return {
        "schema": SCHEMA, "what": WHAT, "dtype": dtype, "size": size,
        "hardware": {
            "name": gpu.name, "capability": gpu.capability,
            "multiprocessors": gpu.multiprocessors, "flops": gpu.flops[dtype],
            "memory": gpu.memory, "l2": gpu.l2, "l2_each": gpu.l2_each,
            "launch": gpu.launch, "sources": gpu.sources,
        },
        "networks": [
            {
                "net": n.net, "kind": n.kind, "batch": n.batch, "gflop": n.flop / 1e9,
                "ms": _ms(n.seconds), "without_l2_ms": _ms(n.without_l2), "roof_ms": _ms(n.roof),
                "images_per_s": round(n.batch / n.seconds, 1),
            }
            for n in networks
        ],
        "layers": [
            {"net": net, "batch": batch, "rows": [_row(p, gpu) for p in rows]}
            for (net, batch), rows in predictions.items()
        ],
    }  # fmt: skip


def text(document: dict[str, object]) -> str:
    """The JSON with a pass of a layer, or a network, a line."""
    parts = []
    for name, value in document.items():
        told = json.dumps(value)
        if name == "networks":
            told = _listed(value, "  ")
        elif name == "layers":
            told = ",".join(
                f'\n  {{"net": "{part["net"]}", "batch": {part["batch"]}, "rows": '
                f"{_listed(part['rows'], '   ')}}}"
                for part in value  # type: ignore[attr-defined]
            )
            told = f"[{told}\n ]"
        parts.append(f' "{name}": {told}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _listed(rows: object, indent: str) -> str:
    assert isinstance(rows, list)
    return "[" + ",".join(f"\n{indent}{json.dumps(row)}" for row in rows) + f"\n{indent[1:]}]"


def _row(p: Prediction, gpu: Hardware) -> dict[str, object]:
    layer, t = p.group.layer, p.tiling
    row: dict[str, object] = {
        "layers": list(p.group.names), "op": layer.op, "pass": p.kind, "c_in": layer.c_in,
        "c_out": layer.c_out, "h": layer.h, "w": layer.w, "pool": layer.pool,
        "flop": p.work.flop, "read": p.work.read, "written": p.work.written,
        "extra_bytes": p.extra_bytes, "ms": _ms(p.seconds), "bound": p.bound,
        "limits_ms": {name: _ms(s) for name, s in p.limits.items()},
        "extra_ms": _ms(p.extra + p.joined), "kernels": p.kernels,
    }  # fmt: skip
    if t is not None:
        row |= {
            "tile": t.tile.name, "useful": round(t.useful, 4), "programs": t.programs,
            "waves": round(t.programs / gpu.multiprocessors, 3),
            "fill": round(t.fill(gpu.multiprocessors), 4), "steps": t.steps,
            "step_bytes": t.step_bytes, "step_flop": t.step_flop, "splits": t.splits,
            "grid": list(t.grid),
        }  # fmt: skip
    return row


def _ms(seconds: float) -> float:
    return float(f"{1e3 * seconds:.5g}")
