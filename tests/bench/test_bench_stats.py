"""Medians, spread, budgets and turns of the benchmark."""

from __future__ import annotations

import time

import numpy as np
import pytest
from harness.contest import GRAPH, OURS, Budget, Contender, Outcome, Rounds, contest, one_line
from harness.stats import paired, speedup, summarise


@pytest.mark.parametrize("n", [2, 3, 4, 5, 30])
def test_quartiles_are_numpys(n: int) -> None:
    samples = np.random.default_rng(n).exponential(size=n)
    s = summarise(samples.tolist())
    q1, median, q3 = np.quantile(samples, [0.25, 0.5, 0.75])
    assert (s.n, s.low, s.high) == (n, samples.min(), samples.max())
    assert (s.q1, s.median, s.q3) == pytest.approx((q1, median, q3))
    assert s.iqr == pytest.approx(q3 - q1)


def test_one_sample_has_no_spread() -> None:
    s = summarise([0.25])
    assert (s.n, s.median, s.iqr, s.low, s.high) == (1, 0.25, 0.0, 0.25, 0.25)
    assert s.as_dict()["median_ms"] == 250


def test_no_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="samples: got none"):
        summarise([])


def test_speedup_is_against_the_fastest() -> None:
    ours, slow, fast = summarise([2.0]), summarise([5.0]), summarise([3.0])
    assert speedup(ours, {"slow": slow, "fast": fast}) == ("fast", 1.5)
    assert speedup(ours, {}) is None


class FakeClock:
    """Notes who was measured; every call takes the time its contender is listed with."""

    warm_ups = 1

    def __init__(self) -> None:
        self.order: list[str] = []

    def measure(self, work, calls):  # type: ignore[no-untyped-def]
        name, seconds = work()
        self.order.append(name)
        return [seconds] * calls

    def calls(self, seconds: float) -> int:
        return 1

    def wait(self) -> None:
        pass


def test_contenders_take_turns_and_change_order() -> None:
    clock = FakeClock()
    contenders = [Contender(OURS, lambda: (OURS, 1.0)), Contender("torch", lambda: ("torch", 3.0))]
    outcome = contest(contenders, clock, Rounds(60, least=3, most=3))
    assert clock.order == [OURS, "torch", "torch", OURS, OURS, "torch"]
    assert outcome.times[OURS].n == 3
    assert outcome.best() == ("torch", 3.0)


class SlowClock(FakeClock):
    """As on a machine where a call takes 40 ms."""

    def measure(self, work, calls):  # type: ignore[no-untyped-def]
        time.sleep(0.04)
        return super().measure(work, calls)


@pytest.mark.parametrize(("seconds", "n"), [(0.0, 1), (0.075, 3), (0.21, 5), (9.0, 6)])
def test_rounds_keep_to_the_time(seconds: float, n: int) -> None:
    """At most twice the seconds for the least rounds, one round whatever the time, six at most."""
    contenders = [Contender(OURS, lambda: (OURS, 1.0))]
    outcome = contest(contenders, SlowClock(), Rounds(seconds, least=3, most=6))
    assert outcome.times[OURS].n in (n, max(1, n - 1))  # one less where the machine is busy


def test_a_third_contender_is_left_out_and_said_when_the_time_is_up() -> None:
    names = (OURS, "torch", "another")
    contenders = [Contender(n, lambda n=n: (n, 1.0)) for n in names]  # type: ignore[misc]
    outcome = contest(contenders, FakeClock(), Rounds(-1.0, least=1, most=1))
    assert set(outcome.times) == {OURS, "torch"}
    assert outcome.skipped["another"].startswith("the run's time limit")


def test_a_failing_baseline_is_said_with_its_reason() -> None:
    def broken() -> None:
        raise RuntimeError("no such engine\nmore lines")

    contenders = [
        Contender(OURS, lambda: (OURS, 1.0)),
        Contender("broken", broken),
        Contender("absent", None, "not built"),
    ]
    outcome = contest(contenders, FakeClock(), Rounds(9, least=1, most=1))
    assert outcome.skipped == {"broken": "RuntimeError: no such engine", "absent": "not built"}
    assert set(outcome.times) == {OURS}
    assert outcome.best() is None


def test_our_own_failure_is_not_skipped() -> None:
    def broken() -> None:
        raise RuntimeError("kernel")

    with pytest.raises(RuntimeError, match="kernel"):
        contest([Contender(OURS, broken)], FakeClock(), Rounds(1, least=1, most=1))


def test_budget_shares_what_is_left_by_weight() -> None:
    now = [0.0]
    budget = Budget(100, now=lambda: now[0])
    for weight in (1, 1, 2):
        budget.plan(weight)
    assert budget.take(1) == pytest.approx(25)
    now[0] = 40.0  # the first job took 40, not 25
    assert budget.take(1) == pytest.approx(20)
    now[0] = 45.0
    assert budget.take(2) == pytest.approx(55)
    now[0] = 200.0
    assert budget.left() == 0


def test_one_line_of_an_error() -> None:
    assert one_line(ValueError("a\nb")) == "ValueError: a"
    assert one_line(ValueError()) == "ValueError"


def test_paired_ratios_ignore_what_both_share() -> None:
    """A machine twice as slow in some rounds changes no ratio."""
    slow = [1.0, 2.0, 1.0, 2.0, 1.0]
    p = paired([0.1 * s for s in slow], [0.25 * s for s in slow])
    assert (p.n, p.ratio, p.low, p.high) == pytest.approx((5, 2.5, 2.5, 2.5))
    assert str(p) == "2.50× [2.50–2.50]"


def test_the_interval_holds_the_median_and_repeats() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(1, 0.05, 30), rng.normal(2, 0.1, 30)
    p = paired(ours.tolist(), theirs.tolist())
    assert 1.8 < p.low < p.ratio < p.high < 2.2
    assert p == paired(ours.tolist(), theirs.tolist())
    for a, b in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="rounds: got"):
            paired(a, b)


def test_asked_for_contenders_are_all_timed_for_the_least_rounds() -> None:
    names = (OURS, "torch", "another")
    contenders = [Contender(n, lambda n=n: (n, 1.0)) for n in names]  # type: ignore[misc]
    outcome = contest(contenders, FakeClock(), Rounds(-1.0, least=3, most=9, insist=True))
    assert {name: s.n for name, s in outcome.times.items()} == dict.fromkeys(names, 3)


def test_our_graph_is_no_baseline() -> None:
    times = {
        name: summarise([seconds]) for name, seconds in ((OURS, 2.0), (GRAPH, 1.0), ("t", 3.0))
    }
    assert Outcome(times).best() == ("t", 1.5)
