"""Two settings of the same work, each in a process of its own, told in turns to do one call.

threads   ours on the run's threads against ours on one
isa       ours on AVX2 against torch channels_last on AVX2, on a CPU that may have more
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from harness import isa
from harness.child import Child, ChildError, Job
from harness.clock import Work
from harness.contest import OURS, Contender, Outcome, Rounds, contest
from harness.options import Options
from harness.oracle import allowed

TITLES = {
    "threads": "ours on {threads} threads against ours on one",
    "isa": "ours on AVX2 against torch on AVX2",
}
SAME_DIGEST = 1e-6  # sums of the same numbers in another order


@dataclass(frozen=True)
class Comparison:
    """``isa``: what each side says its libraries ran on."""

    what: str
    kind: str
    batch: int
    outcome: Outcome
    isa: dict[str, list[str]]

    def as_dict(self) -> dict[str, object]:
        return {
            "compare": self.what, "kind": self.kind, "batch": self.batch,
            "times": {name: s.as_dict() for name, s in self.outcome.times.items()},
            "paired": {name: p.as_dict() for name, p in self.outcome.paired.items()},
            "isa": self.isa, "skipped": self.outcome.skipped,
        }  # fmt: skip


class ChildClock:
    """The child takes the time; a call here returns it."""

    warm_ups = 1

    def measure(self, work: Work, calls: int) -> list[float]:
        return [float(str(work())) for _ in range(calls)]

    def calls(self, seconds: float) -> int:
        return 1

    def wait(self) -> None:
        """The child answers when it is done."""


def compare(
    what: str,
    kind: str,
    batch: int,
    options: Options,
    rounds: Rounds,
    tick: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Both alive at once, one call each in turns. A side that cannot run is said."""
    told: dict[str, list[str]] = {}
    facts = []
    jobs = _jobs(what, kind, batch, options)
    with ExitStack() as stack:
        contenders = []
        for name, job, environment in jobs:
            tick(f"{name}: preparing")
            try:
                child = stack.enter_context(Child(job, environment))
                facts.append(child.ask("facts"))
                told[name] = facts[-1]["isa"]
                _limited(what, told[name])
                _same(facts, options)
            except ChildError as error:
                outcome = Outcome({}, {name: str(error)})
                return Comparison(what, kind, batch, outcome, told)
            contenders.append(Contender(name, partial(child.ask, "seconds")))
        try:
            outcome = contest(contenders, ChildClock(), rounds, tick)
        except ChildError as error:
            outcome = Outcome({}, {OURS: str(error)})
    return Comparison(what, kind, batch, outcome, told)


def _jobs(
    what: str, kind: str, batch: int, options: Options
) -> list[tuple[str, Job, dict[str, str]]]:
    ours = Job(OURS, kind, batch, options)
    if what == "threads":
        one = replace(ours, options=replace(options, threads=1))
        return [(OURS, ours, {}), ("vggfast, 1 thread", one, {})]
    theirs = Job("channels_last", kind, batch, options)
    return [(OURS, ours, isa.AVX2), ("torch channels_last", theirs, isa.AVX2)]


def _limited(what: str, told: list[str]) -> None:
    beyond = isa.beyond_avx2(told) if what == "isa" else None
    if beyond is not None:
        raise ChildError(f"the limit to AVX2 did not hold: {beyond}")


def _same(facts: list[dict[str, object]], options: Options) -> None:
    """The sides have the same weights and images, and the same result within the dtype's bound."""
    first, last = facts[0], facts[-1]
    if not np.isclose(first["digest"], last["digest"], rtol=SAME_DIGEST):  # type: ignore[call-overload]
        raise ChildError("its weights or images are not those of the other side")
    a, b = first["logits"], last["logits"]
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        off = float(np.linalg.norm(a - b) / np.linalg.norm(a))
        bound = 2 * allowed(options.dtype, sum(layer.flop > 0 for layer in options.layers()))
        if not off <= bound:
            raise ChildError(f"wrong: its logits differ by {off:.2g}, allowed {bound:.2g}")


def title(what: str, options: Options) -> str:
    return TITLES[what].format(threads=options.threads)
