"""The command: options to a tuning run, errors to one line and an exit code."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vggfast import backends, configs
from vggfast.command import BAD_INPUT, FAILED, INTERRUPTED, Parser, fail
from vggfast.errors import InputError
from vggfast.kernels import table_file
from vggfast.tune import probe, problems, progress, run, search, store
from vggfast.tune.clock import clock_for

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SECONDS = 480.0


@dataclass(frozen=True)
class Options:
    nets: tuple[str, ...]
    batches: tuple[int, ...]
    dtype: torch.dtype
    ops: tuple[str, ...]
    layers: tuple[str, ...] | None
    size: int
    seconds: float
    dry_run: bool
    out: Path
    shown: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 (a tile is wrong, or nothing could be measured), 2, 130.

    2: bad input, no GPU, or a table that cannot be written; 130: interrupted, what was measured is
    kept.
    """
    started = time.monotonic()
    try:
        options = parse(argv)
        job = _job(options)
        if options.dry_run:
            print("\n".join(run.planned(job)))
            return 0
        store.check(options.out, "--out")
    except InputError as error:
        return fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was measured", INTERRUPTED)
    shown = progress.choose(options.shown, len(job.problems))
    try:
        clock = clock_for(job.device)
        shown.note(f"{job.gpu.name}: {len(job.problems)} problems, {options.seconds:g} s")
        absent = probe.guard()
        if absent is not None:
            shown.note(f"warning: the convolution in CUDA C++ is left out: {absent}")
        if clock.caveat:
            shown.note(f"warning: {clock.caveat}")
        outcome = run.tune(job, clock, shown, started)
    except table_file.TableError as error:
        return fail(f"--out: {error}", BAD_INPUT)
    except search.GpuLostError as error:
        return fail(f"{error}; what was measured before is kept in {options.out}", FAILED)
    except KeyboardInterrupt:
        return fail(f"interrupted; what was measured is kept in {options.out}", INTERRUPTED)
    finally:
        shown.close()
    return _end(outcome, options, started)


def _end(outcome: run.Outcome, options: Options, started: float) -> int:
    faster = sum(f.tile != f.rule for f in outcome.measured)
    if options.shown:
        print(
            f"{len(outcome.measured)} measured in {time.monotonic() - started:.0f} s, {faster} "
            f"faster than the rule's tile; kept in {options.out}",
            flush=True,
        )
    if outcome.left:
        print(
            f"--seconds {options.seconds:g} did not suffice for {outcome.left} problems; the same "
            "command with a --batch or --ops of theirs measures them",
            file=sys.stderr,
        )
    if outcome.wrong:
        return fail(f"{outcome.wrong} candidates gave wrong results, see above", FAILED)
    if not outcome.measured:
        return fail("nothing could be measured", FAILED)
    return 0


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.tune",
        description="Time the tiles of the GPU kernels on the layers of VGG and keep the fastest.",
        allow_abbrev=False,
    )
    add: Any = p.add_argument
    add("--net", default="D", help=f"one or several of {', '.join(configs.NETS)} (D)")
    add("--batch", default="1,64,256", help="images a call, one or several (1,64,256)")
    add("--dtype", default="bf16", help=f"one of {', '.join(DTYPES)} (bf16)")
    add("--ops", default=",".join(problems.OPS), help="some of fprop,dgrad,wgrad (all)")
    add("--layers", help="names of layers, such as conv3_1,conv4_2 (all)")
    add("--size", default="224", help="rows and columns of an image (224)")
    add("--seconds", default=f"{SECONDS:g}", help=f"ends within this time ({SECONDS:g})")
    add("--dry-run", action="store_true", help="only show what would be timed")
    add("--out", help=f"table to write into (the one that is used: {table_file.user_path()})")
    add("--quiet", action="store_true", help="show nothing but errors")
    return p


def parse(argv: Sequence[str] | None) -> Options:
    """Read and check the arguments.

    Raises:
        InputError: one line naming the argument, what was given and what is allowed.
    """
    given = _parser().parse_args(argv)
    nets = _several("--net", given.net, configs.NETS)
    every = dict.fromkeys(
        layer.name
        for net in nets
        for layer in configs.conv_layers(net)
        if layer.op == "conv3x3"
    )  # fmt: skip
    return Options(
        nets=nets,
        batches=tuple(_number("--batch", b.strip(), 1, 65536) for b in given.batch.split(",")),
        dtype=DTYPES[_one_of("--dtype", given.dtype, tuple(DTYPES))],
        ops=_several("--ops", given.ops, problems.OPS),
        layers=None if given.layers is None else _several("--layers", given.layers, tuple(every)),
        size=_number("--size", given.size, configs.DOWNSAMPLING, 4096),
        seconds=float(_number("--seconds", given.seconds, 1, 86400)),
        dry_run=given.dry_run,
        out=table_file.user_path() if given.out is None else Path(given.out),
        shown=not given.quiet,
    )


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise InputError(f"{name}: got {value!r}, allowed are {', '.join(allowed)}")
    return value


def _several(name: str, text: str, allowed: Sequence[str]) -> tuple[str, ...]:
    values = [_one_of(name, part.strip(), allowed) for part in text.split(",")]
    return tuple(dict.fromkeys(values))


def _number(name: str, text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise InputError(f"{name}: got {text!r}, allowed are whole numbers from {low} to {high}")
    return value


def _job(options: Options) -> run.Job:
    """The run on this machine's GPU, or under Triton's interpreter where that is asked for."""
    triton = backends.get("triton")
    reason = triton.unavailable()
    if reason is not None:
        raise InputError(f"tuning needs an NVIDIA GPU and Triton, but {reason}")
    on_gpu = torch.cuda.is_available()
    refused = triton.refuse(backends.Call("conv3x3", "cuda" if on_gpu else "cpu", options.dtype))
    if refused is not None:
        raise InputError(f"tuning is not possible here: {refused}")
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    gpu = importlib.import_module("vggfast.kernels.launch.gpu")  # it imports triton
    return run.Job(
        problems.problems(
            options.nets, options.batches, options.ops, options.dtype, options.size, options.layers
        ),
        device, gpu.identity(device), gpu.cores(device), options.seconds, options.out,
    )  # fmt: skip
