"""A run from start to end: header, numerics, ceilings, layers, networks; then tables, JSON, PNG."""

from __future__ import annotations

import gc
import time
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console

import vggfast
from harness import (
    ceilings,
    e4m3,
    endtoend,
    extras,
    layers,
    machine,
    networks,
    numerics,
    plot,
    results,
    tables,
)
from harness.cases import Group, group
from harness.clock import SETTLE_SECONDS, Clock, clock_for
from harness.contest import Budget, Rounds, one_line
from harness.numerics import NumericsError
from harness.options import Options
from harness.oracle import Oracle
from harness.progress import Steps
from harness.results import Record
from vggfast import backends

# Seconds for everything: what the limits (4 and 1 minutes on 2 CPU cores, 9 on a GPU)
# leave after imports, the tables and the files.
LIMITS = {("cpu", False): 205.0, ("cpu", True): 48.0, ("gpu", False): 470.0, ("gpu", True): 50.0}
# torch.compile of VGG-E on a busy 2-core machine took 57 s; then the least rounds of the rest.
COMPILE_SECONDS = {"cpu": 60.0, "gpu": 40.0}
REST_SECONDS = {"cpu": 60.0, "gpu": 20.0}
QUICK_LAYERS = "--quick times one batch per layer"
SMALLEST_FLOP = 10**9  # FC layers move bytes: they take longer than their few operations say


def run(options: Options, console: Console) -> list[Path]:
    """Check, time, print and write; return the files written.

    Raises:
        NumericsError: a check failed.
    """
    torch.set_num_threads(options.threads)
    if options.on_gpu:
        torch.cuda.set_device(options.device)
        torch.backends.cudnn.benchmark = True  # the baseline at its best
    record = Record(
        options,
        machine.machine(options.device, options.threads),
        machine.versions(),
        machine.commit(),
        vggfast.explain(options.device, options.dtype, options.backend, options.weights),
        _same_kernels(options),
    )
    console.print(tables.header(record), markup=False, highlight=False, soft_wrap=True)
    if record.same:
        console.print(f"same kernels: {record.same}", markup=False, highlight=False)
    session = _Session(record, console)
    session.check()
    session.time()
    extras.run(record, console)
    tables.show(record, console)
    stem = options.out / record.stem()
    files = [Path(f"{stem}.json"), Path(f"{stem}.png")]
    results.write_json(record, files[0])
    plot.write_png(record, files[1])
    for path in files:
        console.print(f"wrote {path}", markup=False, highlight=False, soft_wrap=True)
    return files


class _Session:
    def __init__(self, record: Record, console: Console) -> None:
        self.record, self.options, self.console = record, record.options, console
        self.groups: list[Group] = group(self.options.layers())
        self.kind = "gpu" if self.options.on_gpu else "cpu"
        self.budget = Budget(self.options.seconds or LIMITS[self.kind, self.options.quick])
        self.oracles: dict[int, Oracle] = {}  # by batch

    @cached_property
    def model(self) -> vggfast.VGG:
        """Ours; each job sets its dtype and mode."""
        return networks.build(self.options)

    def check(self) -> None:
        """All numerics, then the verdict."""
        started, checks = time.monotonic(), self.record.checks
        batches = () if self.options.layers_only else self.options.batches
        weighs = self.options.stores_bf16 and len(batches) > 0
        with Steps(self.console, len(self.groups) + 1 + len(batches) + weighs) as steps:
            for g in self.groups:
                steps.begin(f"numerics {g.name}")
                small = numerics.check_small(g, self.options)
                checks += small
                if self.options.stores_bf16 and g.layer.op == "linear":
                    checks += numerics.check_stored(g, self.options)
                if self.options.quantizes:
                    checks += e4m3.check_layer(g, self.options)
                # An FC layer has its real sums on the small map too, and gigabytes of weights here.
                if g.layer.op != "linear" or not self.options.quick:
                    checks += numerics.check_real(g, self.options, small)
                steps.end()
            steps.begin("numerics, network end to end")
            checks += endtoend.check_network(self.options)
            steps.end()
            for b in batches:
                steps.begin(f"numerics, timed call, batch {b}")
                self._check_timed_call(b)
                steps.end()
            if weighs and self.oracles:
                steps.begin("what rounding the weights does")
                b, known = next(iter(self.oracles.items()))
                self.record.rounding = networks.rounding(b, self.options, known)
                steps.end()
        self._settle()
        self.record.seconds["numerics"] = time.monotonic() - started
        self.console.print(tables.numerics(checks))
        failed = [c for c in checks if not c.passed]
        if failed:
            raise NumericsError(failed)
        self.console.print(f"numerics: {len(checks)} checks passed")
        if self.record.rounding is not None:
            self.console.print(tables.rounding(self.record), highlight=False, soft_wrap=True)
        if self.record.quantization:
            self.console.print(tables.quantization(self.record), highlight=False, soft_wrap=True)

    def _check_timed_call(self, batch: int) -> None:
        """Ours on the images it will be timed on; a batch that does not fit is said later."""
        try:
            check, self.oracles[batch] = networks.check(self.model, batch, self.options)
            self.record.checks.append(check)
            if self.options.quantizes:
                x = networks.images(batch, self.options, self.options.dtype)
                self.record.quantization[batch] = e4m3.cost(self.model, x, self.options)
        except torch.OutOfMemoryError as error:
            what = f"numerics, timed call, batch {batch}"
            self.record.skipped.append((what, one_line(error)))
        self._settle()

    def time(self) -> None:
        """Ceilings, layers, networks, within what is left of the budget."""
        started, o = time.monotonic(), self.options
        clock = clock_for(o.device)
        runs = [("inference", b) for b in o.batches if b in self.oracles]
        runs += [("training", o.train_batch)] if o.train_batch else []
        jobs = [(b, kind, g) for b in layers.batches(o) for kind in layers.passes(o)
                for g in self.groups if layers.applies(g, kind)]  # fmt: skip
        if o.stores_bf16:
            what = "dgrad and wgrad of layers" if o.layers_only else "training"
            self.record.skipped.append((what, "--weights bf16 is for inference"))
        if o.quantizes:
            self.record.skipped.append(("training", "--dtype e4m3 is for inference"))
        left_out = set(o.batches) - set(layers.batches(o))
        for b in sorted(left_out):
            why = "--dtype e4m3 is timed as a network" if o.quantizes else QUICK_LAYERS
            self.record.skipped.append((f"layers, batch {b}", why))
        for b, _, g in jobs:
            self.budget.plan(_layer_weight(g, b))
        for kind, b in runs:
            self.budget.plan(self._network_weight(kind, b))
        with Steps(self.console, 1 + len(jobs) + len(runs)) as steps:
            steps.begin("ceilings: GEMM and copy")
            self.record.ceilings = ceilings.measure(o, clock)
            steps.end()
            for b, kind, g in jobs:
                self._layer(b, kind, g, clock, steps)
            clock = clock_for(o.device, SETTLE_SECONDS)
            for kind, b in runs:
                self._network(kind, b, clock, steps)
        self.record.seconds["timing"] = time.monotonic() - started

    def _layer(self, batch: int, kind: str, g: Group, clock: Clock, steps: Steps) -> None:
        what = f"layer {g.name}, {kind}, batch {batch}"
        steps.begin(what)
        rounds = self._rounds(_layer_weight(g, batch))
        try:
            row = layers.time_layer(g, batch, kind, self.options, clock, rounds, steps.tick)
            self.record.rows.append(row)
        except torch.OutOfMemoryError as error:
            self.record.skipped.append((what, one_line(error)))
        if self.options.on_gpu:
            self._settle()
        steps.end()

    def _network(self, kind: str, batch: int, clock: Clock, steps: Steps) -> None:
        """One network job; a batch that does not fit is said and, in training, halved."""
        what = f"{kind}, batch {batch}"
        steps.begin(what)
        rounds = self._rounds(self._network_weight(kind, batch))
        compiled = self._no_compile(kind)
        fits = True
        try:
            job = (self.model, batch, self.options, clock, rounds, compiled, steps.tick)
            if kind == "training":
                self.record.networks.append(networks.train(*job))
            else:
                self.record.networks.append(networks.infer(*job, self.oracles[batch]))
        except torch.OutOfMemoryError as error:
            self.record.skipped.append((what, one_line(error)))
            fits = False
        self._settle()  # not while the error is held, and with it all that its frames hold
        if not fits and kind == "training" and batch > 1:
            self.budget.plan(self._network_weight(kind, batch // 2))
            self._network(kind, batch // 2, clock, steps)
        else:
            steps.end()

    def _rounds(self, weight: float) -> Rounds:
        least, insist = 2 if self.options.quick else 3, self.options.peers is not None
        return Rounds(self.budget.take(weight), least, most=30, insist=insist)

    def _network_weight(self, kind: str, batch: int) -> float:
        """Twice a layer's share; a step is three times a forward pass."""
        flop = float(networks.inference_flop(self.options))
        return 2.0 * flop * batch**0.5 * (3 if kind == "training" else 1)

    def _no_compile(self, kind: str) -> str | None:
        """Why torch.compile, which nobody asked for by name, is not timed in this job, if so."""
        if self.options.quick:
            return "--quick leaves no time to compile"
        if not self.options.on_gpu and kind == "training":
            return "compiling forward and backward for a CPU takes longer than the run may"
        left, needed = self.budget.left(), COMPILE_SECONDS[self.kind] + REST_SECONDS[self.kind]
        if left < needed:
            return (
                f"{left:.0f} s of the run's limit are left, compiling and what is still to do "
                f"may take {needed:.0f}"
            )
        return None

    def _settle(self) -> None:
        """Give back what the last job held."""
        gc.collect()
        if self.options.on_gpu:
            torch.cuda.empty_cache()


def _layer_weight(g: Group, batch: int) -> float:
    # The square root: a small batch gets more rounds, not the same time per image.
    return float(max(g.layer.flop, SMALLEST_FLOP) * batch**0.5)


def _same_kernels(options: Options) -> str | None:
    """Which of the network's ops run torch's own kernels under vggfast too, if any do."""
    shared = []
    for layer in options.layers():
        call = backends.Call(layer.op, options.device.type, options.dtype, layer.c_in, layer.c_out)
        chosen = backends.select(call, options.backend)
        if layer.op not in chosen.own_ops:
            shared.append(f"{layer.op} ({chosen.name} backend)")
    if not shared:
        return None
    names = ", ".join(dict.fromkeys(shared))
    return f"vggfast serves {names} with torch's own kernels; a ratio there compares wrappers only"
