"""The record of a run: one JSON file, and a PNG beside it, both written atomically."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from harness.ceilings import Ceilings
from harness.compare import Comparison
from harness.layers import Row, sums
from harness.memory import MemoryResult
from harness.networks import NetworkResult
from harness.numerics import RULE, Check
from harness.options import Options
from vggfast.quantization import Cost

SCHEMA = 1  # raised when a field changes its meaning


@dataclass
class Record:
    """What a run finds, stage by stage."""

    options: Options
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    commit: str
    backends: str  # vggfast.explain()
    same: str | None = None  # set where ours runs the baseline's own kernels
    checks: list[Check] = field(default_factory=list)
    rounding: float | None = None  # how far storing the weights in bfloat16 moves the logits
    quantization: dict[int, Cost] = field(default_factory=dict)  # what e4m3 costs, by batch
    ceilings: Ceilings | None = None
    networks: list[NetworkResult] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    memory: list[MemoryResult] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (what, why)
    seconds: dict[str, float] = field(default_factory=dict)  # by stage
    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def tables(self) -> dict[tuple[int, str], list[Row]]:
        """The rows of each per-layer table, by batch and pass."""
        found: dict[tuple[int, str], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.batch, row.kind), []).append(row)
        return found

    def all_skipped(self) -> list[tuple[str, str]]:
        """Every comparison that was not made, with its reason; equal ones of layers once."""
        found = list(self.skipped)
        for r in self.networks:
            found += [(f"{name}, {r.kind} batch {r.batch}", why)
                      for name, why in r.outcome.skipped.items()]  # fmt: skip
        for m in self.memory:
            found += [(f"{name}, memory, {m.kind} batch {m.batch}", why)
                      for name, why in m.skipped.items()]  # fmt: skip
        for c in self.comparisons:
            found += [(f"{name}, compare {c.what}, {c.kind} batch {c.batch}", why)
                      for name, why in c.outcome.skipped.items()]  # fmt: skip
        for (batch, kind), rows in self.tables().items():
            for row in rows:
                for name, why in row.outcome.skipped.items():
                    found.append((f"{name}, layers {kind} batch {batch}", why))
        return list(dict.fromkeys(found))

    def stem(self) -> str:
        """File name without suffix: network, device, dtype, kind of run, date."""
        o = self.options
        device = "cpu" if not o.on_gpu else _slug(str(self.machine["device"]))
        date = self.started.strftime("%Y%m%d-%H%M%S")
        kind = [o.mode] * (o.mode != "full") + ["exact"] * o.exact
        kind += [f"{o.weights}-weights"] * o.stores_bf16
        parts = [o.net, device, o.dtype_name, *kind, date]
        return "_".join(parts)

    def as_dict(self) -> dict[str, object]:
        o, c = self.options, self.ceilings
        return {
            "schema": SCHEMA,
            "date": self.started.isoformat(timespec="seconds"),
            "options": {
                "net": o.net, "batch": list(o.batches), "train_batch": o.train_batch,
                "dtype": o.dtype_name, "weights": o.weights, "backend": o.backend or "auto",
                "exact": o.exact, "device": str(o.device), "threads": o.threads, "mode": o.mode,
                "size": o.size, "seed": o.seed,
            },
            "machine": self.machine, "versions": self.versions, "commit": self.commit,
            "backends": self.backends.splitlines(), "same_kernels": self.same,
            "numerics": {
                "rule": RULE, "passed": all(k.passed for k in self.checks),
                "rounding_of_weights": self.rounding,
                "cost_of_e4m3": [
                    {"batch": b, **asdict(c)} for b, c in self.quantization.items()
                ],
                "checks": [k.as_dict() for k in self.checks],
            },
            "ceilings": None if c is None else {
                "gemm_size": c.gemm_size, "gemm_tflops": c.gemm_tflops,
                "conv_tflops": c.conv_tflops, "copy_gbps": c.copy_gbps,
            },
            "networks": [r.as_dict() for r in self.networks],
            "memory": [m.as_dict() for m in self.memory],
            "comparisons": [k.as_dict() for k in self.comparisons],
            "layers": [
                {
                    "batch": batch, "pass": kind, "rows": [r.as_dict() for r in rows],
                    "sum_ms": {name: 1e3 * s for name, s in sums(rows).items()},
                }
                for (batch, kind), rows in self.tables().items()
            ],
            "skipped": [{"what": what, "reason": why} for what, why in self.all_skipped()],
            "seconds": self.seconds,
        }  # fmt: skip


def write_json(record: Record, path: Path) -> None:
    """Write the record; a number that is not finite becomes its name, since JSON has none."""
    text = json.dumps(_plain(record.as_dict()), indent=1, allow_nan=False) + "\n"
    atomically(path, lambda part: part.write_text(text))


def atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` fill a file beside ``path``, then rename it: it is whole or not there."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        part.chmod(0o644)  # mkstemp's file is its owner's alone
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
