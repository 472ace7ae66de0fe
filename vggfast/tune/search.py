"""One problem: candidates pruned by counting, checked, timed in turns; the fastest beyond noise."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vggfast.kernels import tiles, tuned
from vggfast.kernels.division import divide
from vggfast.kernels.tiles import Tile
from vggfast.tune.clock import Clock
from vggfast.tune.problems import Data, Problem

HOPELESS = 2.0  # times the counted cost of the best: such a candidate is not timed
LEAST, MOST = 3, 12  # rounds
GAIN = 1.01  # a tile replaces the rule's if the rule's takes this many times as long, and ...
# ... if it does so in three rounds of four: the lower quartile of the ratios is above 1.


@dataclass
class Finding:
    """What became of a problem. ``tile`` is None if nothing could be measured: see ``skipped``."""

    problem: Problem
    query: tuned.Query
    rule: Tile
    tile: Tile | None = None
    ms: float = 0.0
    rule_ms: float | None = None  # None: the rule's tile does not run here
    timed: int = 0
    pruned: int = 0
    rounds: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (tile, why)
    wrong: list[str] = field(default_factory=list)  # tiles whose result is wrong


class GpuLostError(Exception):
    """The GPU no longer works after a candidate; the message is one line."""


class OutOfTimeError(Exception):
    """The deadline came before a problem had its least number of rounds."""


@dataclass
class Deadline:
    """When a run ends, of time.monotonic; a step begins only if one like the longest still fits."""

    at: float
    longest: float = 0.0

    def left(self) -> float:
        return self.at - self.longest - time.monotonic()

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step of the run, such as a check of a candidate, which cannot be cut short."""
        if self.left() < 0:
            raise OutOfTimeError
        started = time.monotonic()
        yield
        self.longest = max(self.longest, time.monotonic() - started)


def cost(tile: Tile, query: tuned.Query, cores: int) -> int:
    """Counted multiplications of the busiest multiprocessor, part tiles and splits included.

    Of few programs on many multiprocessors the longest takes the time; of many, their sum.
    """
    division = divide(tile, query, cores)
    return division.turns(cores) * division.steps * division.macs


def promising(query: tuned.Query, cores: int) -> tuple[list[Tile], int]:
    """The rule's tile, then the others from the least counted cost on; how many were pruned."""
    rule = tuned.rule(query)
    every = tiles.candidates(*query[:3], query.ieee)
    others = [t for t in every if t != rule and tuned.runs(t, query)]
    costs = {t: cost(t, query, cores) for t in (rule, *others)}
    limit = HOPELESS * min(costs.values())
    kept = sorted((t for t in others if costs[t] <= limit), key=costs.__getitem__)
    return [rule, *kept], len(others) - len(kept)


def search(
    problem: Problem,
    query: tuned.Query,
    device: torch.device,
    clock: Clock,
    cores: int,
    share: float,
    deadline: Deadline,
    tick: Callable[[str], None] = lambda text: None,
) -> Finding:
    """Find the fastest tile of a problem in about ``share`` seconds.

    Raises:
        OutOfTimeError: ``deadline`` came too early.
        GpuLostError: a candidate has left the GPU in an error.
        torch.OutOfMemoryError: the data do not fit.
    """
    chosen, pruned = promising(query, cores)
    finding = Finding(problem, query, chosen[0], pruned=pruned)
    data = Data(problem, device)
    started = time.monotonic()
    able = _check(finding, data, chosen, clock, deadline, tick)
    if not able:
        return finding
    samples = _time(data, able, clock, started + share, deadline, tick)
    finding.timed, finding.rounds = len(able), len(samples[able[0]])
    finding.tile = _fastest(samples, able[0])
    finding.ms = statistics.median(samples[finding.tile])
    if finding.rule in samples:
        finding.rule_ms = statistics.median(samples[finding.rule])
    return finding


def _check(
    finding: Finding,
    data: Data,
    chosen: list[Tile],
    clock: Clock,
    deadline: Deadline,
    tick: Callable[[str], None],
) -> list[Tile]:
    """The tiles that run and are right: the first against torch, the others against the first.

    Both round sums of the same products once, so they differ by a rounding of the result and by the
    order of float32 sums.
    """
    able: list[Tile] = []
    expected: Tensor | None = None
    for tile in chosen:
        tick(f"check {tile.name}")
        with deadline.step():
            y = _result(finding, data, tile, clock)
            if y is None:
                continue
            by_torch = expected is None
            found = difference(y, data.torchs() if expected is None else expected)
            allowed = bound(finding.problem, 2.0 if by_torch else 1.0)
        if found <= allowed:
            expected = y if expected is None else expected
            able.append(tile)
        else:
            than = "torch's" if by_torch else f"that of {able[0].name}"
            why = f"its result is {found:.1e} from {than}, allowed is {allowed:.1e}"
            finding.skipped.append((tile.name, why))
            finding.wrong.append(tile.name)
    return able


def _result(finding: Finding, data: Data, tile: Tile, clock: Clock) -> Tensor | None:
    """The op's result with a tile, or None if that cannot be compiled or launched."""
    try:
        with tiles.forced(tile):
            y = data.ours()
        clock.wait()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        # Whatever a compiler or driver says of a candidate, the others may still run.
        finding.skipped.append((tile.name, in_words(error)))
        try:
            clock.wait()
        except RuntimeError as lost:  # nothing that is measured after that would be true
            raise GpuLostError(f"the GPU fails after {tile.name}: {in_words(lost)}") from lost
        return None
    return y


def bound(problem: Problem, times: float) -> float:
    """How far two right results may be apart, relative to their norm."""
    rounding = torch.finfo(problem.dtype).eps
    return float(times * (rounding + 2 * torch.finfo(torch.float32).eps * problem.terms**0.5))


def difference(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||, an image (or an output channel) at a time: the maps are large."""
    if a.shape != b.shape:
        return float("inf")
    apart = torch.zeros((), dtype=torch.float64, device=a.device)
    norm = torch.zeros_like(apart)
    for one, other in zip(a, b, strict=True):
        apart += (one.float() - other.float()).square().sum(dtype=torch.float64)
        norm += other.float().square().sum(dtype=torch.float64)
    return float((apart / norm).sqrt())


def _time(
    data: Data,
    able: list[Tile],
    clock: Clock,
    until: float,
    deadline: Deadline,
    tick: Callable[[str], None],
) -> dict[Tile, list[float]]:
    """Milliseconds of each tile, a figure a round. Rounds alternate, so that a drift hits all."""
    samples: dict[Tile, list[float]] = {tile: [] for tile in able}
    for i in range(MOST if len(able) > 1 else LEAST):
        enough = i >= LEAST
        if enough and (time.monotonic() > until or deadline.left() < 0):
            break
        tick(f"round {i + 1}")
        try:
            for tile in able if i % 2 == 0 else able[::-1]:
                with deadline.step(), tiles.forced(tile):
                    samples[tile].append(statistics.median(clock.measure(data.ours)))
        except OutOfTimeError:
            if not enough:
                raise
            break
    whole = min(map(len, samples.values()))  # the last round may have been cut short
    return {tile: figures[:whole] for tile, figures in samples.items()}


def _fastest(samples: dict[Tile, list[float]], first: Tile) -> Tile:
    """The tile of the least median if it beats ``first``, the rule's, beyond noise; else that."""
    best = min(samples, key=lambda t: statistics.median(samples[t]))
    ratios = [theirs / its for theirs, its in zip(samples[first], samples[best], strict=True)]
    sure = statistics.quantiles(ratios, n=4, method="inclusive")[0] > 1
    return best if sure and statistics.median(ratios) >= GAIN else first


def in_words(error: Exception) -> str:
    """One line for a candidate that cannot be compiled or launched."""
    required, limit = getattr(error, "required", None), getattr(error, "limit", None)
    if required is not None and limit is not None:  # triton's OutOfResources
        what = getattr(error, "name", "a resource")
        return f"it needs {required} of {what}, this GPU has {limit}"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0].strip()[:160] if lines else 'no message'}"
