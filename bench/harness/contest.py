"""Several contenders for the same work, timed in turns within a time budget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from harness.clock import Clock, Work
from harness.stats import Paired, Stats, paired, speedup, summarise

OURS = "vggfast"
GRAPH = "vggfast, CUDA graph"  # ours too: no baseline


@dataclass(frozen=True)
class Contender:
    """A named way to do the work. ``cannot`` says why it is not timed, if it is not."""

    name: str
    work: Work | None
    cannot: str | None = None


@dataclass(frozen=True)
class Rounds:
    """How long to go on: ``seconds`` is kept to once ``least`` rounds are done.

    On a machine so slow that ``least`` rounds would take twice the seconds, one round is enough:
    the run's time limit comes first, and n says how many there were.
    """

    seconds: float
    least: int
    most: int
    insist: bool = False  # no contender and none of ``least`` left out; warm-ups do not count


@dataclass
class Outcome:
    """Statistics by contender name, in seconds per call, and why the others were not timed.

    ``paired``: how many times ours is faster than each baseline, round by round.
    """

    times: dict[str, Stats] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    paired: dict[str, Paired] = field(default_factory=dict)

    def best(self) -> tuple[str, float] | None:
        """The fastest baseline and how many times faster ours is; None if none was timed."""
        others = {name: s for name, s in self.times.items() if name not in (OURS, GRAPH)}
        return speedup(self.times[OURS], others) if OURS in self.times else None


class Budget:
    """Shares what is left of a time limit among the jobs to come, by weight."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds
        self._weight = 0.0

    def plan(self, weight: float) -> None:
        """Announce a job of this weight."""
        self._weight += weight

    def take(self, weight: float) -> float:
        """The seconds the next job may use; what it leaves or overdraws is shared by the rest."""
        share = self.left() * weight / self._weight if self._weight > 0 else 0.0
        self._weight = max(0.0, self._weight - weight)
        return share

    def left(self) -> float:
        return max(0.0, self._end - self._now())


def contest(
    contenders: Sequence[Contender],
    clock: Clock,
    rounds: Rounds,
    tick: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Warm every contender up, then time them in turns: A B C, B C A, C A B, ...

    Turns share what the machine does to them (clock changes, neighbours), which timing one
    contender after the other would not. A baseline that fails is left out with its reason.

    Raises:
        Exception: whatever our own contender raises.
    """
    started = time.perf_counter()
    outcome = Outcome({}, {c.name: c.cannot for c in contenders if c.cannot is not None})
    works: dict[str, Work] = {}
    calls: dict[str, int] = {}
    for c in contenders:
        if c.work is None or c.cannot is not None:
            continue
        spent = time.perf_counter() - started
        too_long = not rounds.insist and spent > 2 * rounds.seconds
        if len(works) >= 2 and too_long:  # ours and a baseline go on anyway
            outcome.skipped[c.name] = f"the run's time limit: {spent:.0f} s went on warm-ups alone"
            continue
        tick(f"{c.name}: warm-up")
        seconds, reason = _warm_up(c.name, c.work, clock)
        if reason is not None:
            outcome.skipped[c.name] = reason
            continue
        works[c.name], calls[c.name] = c.work, clock.calls(seconds)
    samples: dict[str, list[list[float]]] = {name: [] for name in works}
    order = list(works)
    first_round = time.perf_counter()
    if rounds.insist:
        started = first_round
    for done in range(rounds.most):
        now = time.perf_counter()
        pace = (now - first_round) / max(done, 1)
        allowed = rounds.seconds if done >= rounds.least else 2 * rounds.seconds
        insisted = rounds.insist and done < rounds.least
        if done > 0 and not insisted and now + pace - started > allowed:
            break  # one more round would end too late
        for name in order:
            tick(f"{name}: round {done + 1}")
            samples[name].append(clock.measure(works[name], calls[name]))
        order = order[1:] + order[:1]
    outcome.times = {name: summarise([*chain(*taken)]) for name, taken in samples.items()}
    by_round = {n: [statistics.median(t) for t in taken] for n, taken in samples.items()}
    if OURS in by_round:
        mine = by_round.pop(OURS)
        outcome.paired = {name: paired(mine, theirs) for name, theirs in by_round.items()}
    return outcome


def _warm_up(name: str, work: Work, clock: Clock) -> tuple[float, str | None]:
    """Seconds of a warm call, or the reason why a baseline cannot run."""
    seconds = 0.0
    try:
        for _ in range(clock.warm_ups):
            started = time.perf_counter()
            work()
            clock.wait()
            seconds = time.perf_counter() - started
    except Exception as error:  # a baseline may fail in any way; it is reported, never dropped
        if name == OURS:
            raise
        return 0.0, one_line(error)
    return seconds, None


def one_line(error: BaseException) -> str:
    """The kind of an error and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
