"""Measure the CPU's convolution algorithms and write the table that the backend chooses by.

    python bench/tune_cpu.py        # this machine's instruction set; VGGFAST_CPU_ISA for another

For each pair of VGG's channels, each algorithm is timed on a large and on a small map, and a line
is laid through the two: seconds = fixed + each * tiles. Weights are transformed beforehand, as in
inference. The entries of other instruction sets stay as they are.
"""

from __future__ import annotations

import itertools
import json
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone

import torch
from harness import machine

from vggfast.backends import cpu_conv, cpu_memory, native

PAIRS = [(16, 16), (32, 32), (64, 64), (64, 128), (128, 64), (128, 128), (128, 256), (256, 128),
         (256, 256), (256, 512), (512, 256), (512, 512)]  # fmt: skip
SAMPLES = 7
WEIGHTS_BYTES = 300 << 20
FLUSH = torch.empty(64 << 20, dtype=torch.uint8)


def maps(c: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(images, side) of a large and of a small map for this many channels."""
    side = max(28, min(168, 168 * 64 // c // 28 * 28))
    return (8, side), (1, 12)


def median(work: Callable[[], object]) -> float:
    work()
    samples = []
    for i in range(SAMPLES):
        FLUSH.fill_(i)
        start = time.perf_counter()
        work()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def fprop(name: str, n: int, side: int, c_in: int, c_out: int) -> Callable[[], object]:
    lib, threads = native.module(), torch.get_num_threads()
    x, w = torch.randn(n, side, side, c_in), torch.randn(c_out, c_in, 3, 3)
    y = torch.empty(n, side, side, c_out)
    sizes = (n, side, side, c_in, c_out, True, False)
    if name == "direct":
        return lambda: lib.conv3x3(x.data_ptr(), w.data_ptr(), 0, y.data_ptr(), 0, *sizes, threads)
    form = cpu_conv.ALGORITHMS[name], cpu_conv.on_amx(name)
    floats = lib.winograd_floats(c_out, c_in, *form)
    # As many copies as a network has weights: in turn, so that they come from memory.
    kept = [cpu_memory.empty((floats,)) for _ in range(max(1, WEIGHTS_BYTES // (4 * floats)))]
    for u in kept:
        lib.winograd_weights(w.data_ptr(), u.data_ptr(), c_out, c_in, False, *form, threads)
    turn = itertools.cycle(kept)
    task = cpu_conv.a_task(name, cpu_conv.tiles_of(name, n, side, side), c_in, c_out)
    how = (*form, *task, threads)
    return lambda: lib.conv3x3_winograd(
        x.data_ptr(), w.data_ptr(), next(turn).data_ptr(), 0, y.data_ptr(), 0, *sizes, *how
    )


def wgrad(name: str, n: int, side: int, c_in: int, c_out: int) -> Callable[[], object]:
    lib, threads = native.module(), torch.get_num_threads()
    x, dz = torch.randn(n, side, side, c_in), torch.randn(n, side, side, c_out)
    dw = torch.empty(c_out, c_in, 3, 3)
    sizes = (n, side, side, c_in, c_out)
    if name == "direct":
        return lambda: lib.conv3x3_wgrad(
            x.data_ptr(), dz.data_ptr(), dw.data_ptr(), *sizes, threads
        )
    form = cpu_conv.ALGORITHMS[name], cpu_conv.on_amx(name)
    chunk = cpu_conv.a_chunk(name, c_in, c_out)
    return lambda: lib.conv3x3_wgrad_winograd(
        x.data_ptr(), dz.data_ptr(), 0, 0, dw.data_ptr(), *sizes, *form, chunk, threads
    )


def line(
    make: Callable[..., Callable[[], object]], name: str, c_in: int, c_out: int
) -> list[float]:
    """[fixed, each] in seconds."""
    (n1, side1), (n0, side0) = maps(max(c_in, c_out))
    large, small = (median(make(name, n, side, c_in, c_out))
                    for n, side in ((n1, side1), (n0, side0)))  # fmt: skip
    tiles1, tiles0 = (cpu_conv.tiles_of(name, n, s, s) for n, s in ((n1, side1), (n0, side0)))
    each = (large - small) / (tiles1 - tiles0)
    return [float(f"{max(small - each * tiles0, 0):.3g}"), float(f"{each:.3g}")]


def measured_on() -> str:
    """This machine and day, in a line."""
    threads, today = torch.get_num_threads(), datetime.now(timezone.utc).date()
    facts = machine.machine(torch.device("cpu"), threads)
    return f"{facts['cpu']}, {threads} threads, commit {machine.commit()}, {today}"


def main() -> None:
    isa = native.module().build_config()["cpu_isa"]
    text = (
        cpu_conv.TABLE.read_text() if cpu_conv.TABLE.exists() else '{"measured_on": {}, "isa": {}}'
    )
    stored = json.loads(text)
    found: dict[str, list[dict[str, object]]] = {"fprop": [], "wgrad": []}
    for op, make in (("fprop", fprop), ("wgrad", wgrad)):
        for c_in, c_out in PAIRS:
            row: dict[str, object] = {"c_in": c_in, "c_out": c_out}
            for name in cpu_conv.here():
                row[name] = line(make, name, c_in, c_out)
            found[op].append(row)
            print(isa, op, row, flush=True)
    stored["isa"][isa] = found
    stored["measured_on"][isa] = measured_on()
    rows = [
        f'  "{i}": {{\n' + ",\n".join(
            f'   "{op}": [\n' + ",\n".join("    " + json.dumps(r) for r in entries) + "\n   ]"
            for op, entries in ops.items()
        ) + "\n  }"
        for i, ops in sorted(stored["isa"].items())
    ]  # fmt: skip
    told = json.dumps(stored["measured_on"], indent=2, sort_keys=True).replace("\n", "\n ")
    table = ",\n".join(rows)
    cpu_conv.TABLE.write_text(f'{{\n "measured_on": {told},\n "isa": {{\n{table}\n }}\n}}\n')


if __name__ == "__main__":
    main()
