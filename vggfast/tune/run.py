"""A tuning run: every problem within a time budget, each result written as soon as it is there."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch

from vggfast.kernels import tuned
from vggfast.kernels.table_file import Entry, Gpu
from vggfast.tune import problems, progress, search, store
from vggfast.tune.clock import Clock
from vggfast.tune.problems import Problem
from vggfast.tune.search import Finding


@dataclass(frozen=True)
class Job:
    """What to tune, on what, for how long, and into which file."""

    problems: list[Problem]
    device: torch.device
    gpu: Gpu
    cores: int  # multiprocessors
    seconds: float
    out: Path


@dataclass
class Outcome:
    """What a run did."""

    measured: list[Finding] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # titles of problems without a result
    left: int = 0  # problems that the budget did not reach
    wrong: int = 0  # candidates whose result was wrong


def tune(job: Job, clock: Clock, shown: progress.Progress, started: float) -> Outcome:
    """Tune until all is done or ``job.seconds`` after ``started`` (of time.monotonic).

    What is measured is in ``job.out`` at once, so an interruption loses the problem in work only.
    """
    outcome, deadline = Outcome(), search.Deadline(started + job.seconds)
    for i, problem in enumerate(job.problems):
        left = len(job.problems) - i
        if deadline.left() < 0:
            outcome.left = left
            break
        shown.begin(problem.title)
        query = problems.asked(problem, job.device)
        if query is None:
            shown.end(f"{problem.title}: its kernel has no tile to choose")
            continue
        try:
            found = search.search(
                problem, query, job.device, clock, job.cores, deadline.left() / left,
                deadline, shown.tick,
            )  # fmt: skip
        except search.OutOfTimeError:
            outcome.left = left
            break
        except torch.OutOfMemoryError:
            outcome.failed.append(problem.title)
            shown.end(f"{problem.title}: skipped, its data do not fit in memory")
            continue
        finally:
            if job.device.type == "cuda":
                torch.cuda.empty_cache()
        outcome.wrong += len(found.wrong)
        if found.tile is None:
            outcome.failed.append(problem.title)
        else:
            store.add(job.out, [entry(found, job.gpu)])
            outcome.measured.append(found)
        shown.end(progress.summary(found))
        for name, why in found.skipped:
            shown.note(f"    skipped {name}: {why}")
    tuned.reload()
    return outcome


def entry(found: Finding, gpu: Gpu) -> Entry:
    """The entry for a finding with a tile."""
    assert found.tile is not None
    return Entry(
        found.query.op, found.query.shape, gpu, found.query.dtype, found.tile, _rounded(found.ms),
        None if found.rule_ms is None else _rounded(found.rule_ms), found.query.pixels[0],
        _version("triton"), str(torch.__version__),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip


def planned(job: Job) -> Iterator[str]:
    """A line for each problem and each candidate: what a run would time."""
    for problem in job.problems:
        query = problems.asked(problem, job.device)
        if query is None:
            yield f"{problem.title}: its kernel has no tile to choose"
            continue
        chosen, pruned = search.promising(query, job.cores)
        yield f"{problem.title}: {len(chosen)} to time, {pruned} pruned"
        used, table = tuned.source(query)
        told = "" if used is None or table is None else f"; in use {used.tile.name}, {table.path}"
        yield f"    rule: {chosen[0].name}{told}"
        yield from (f"    {tile.name}" for tile in chosen[1:])


def _rounded(ms: float) -> float:
    return float(f"{ms:.4g}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
