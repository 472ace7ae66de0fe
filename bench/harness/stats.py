"""Medians and spread of timed samples; ratios of samples taken in the same rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Stats:
    """Order statistics of n samples, in seconds."""

    n: int
    median: float
    q1: float
    q3: float
    low: float
    high: float

    @property
    def iqr(self) -> float:
        """Interquartile range, in seconds."""
        return self.q3 - self.q1

    def as_dict(self) -> dict[str, float | int]:
        """For JSON, in milliseconds."""
        return {
            "n": self.n,
            "median_ms": 1e3 * self.median,
            "iqr_ms": 1e3 * self.iqr,
            "q1_ms": 1e3 * self.q1,
            "q3_ms": 1e3 * self.q3,
            "min_ms": 1e3 * self.low,
            "max_ms": 1e3 * self.high,
        }


def summarise(samples: Sequence[float]) -> Stats:
    """Median, quartiles (inclusive method, as numpy's default) and range of at least one sample.

    Raises:
        ValueError: no sample.
    """
    if not samples:
        raise ValueError("samples: got none, allowed is at least one")
    ordered = sorted(samples)
    if len(ordered) == 1:
        q1 = median = q3 = ordered[0]
    else:
        q1, median, q3 = statistics.quantiles(ordered, n=4, method="inclusive")
    return Stats(len(ordered), median, q1, q3, ordered[0], ordered[-1])


def speedup(ours: Stats, others: dict[str, Stats]) -> tuple[str, float] | None:
    """The fastest of ``others`` and how many times faster ours is; None if there is no other."""
    if not others:
        return None
    best = min(others, key=lambda name: others[name].median)
    return best, others[best].median / ours.median


@dataclass(frozen=True)
class Paired:
    """The median over n rounds of (theirs / ours), and its 95 % bootstrap interval.

    A round's two samples share what the machine did at the time, so this spreads less than the
    ratio of two medians. Of fewer than about six rounds the interval is little more than the range.
    """

    n: int
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.2f}× [{self.low:.2f}–{self.high:.2f}]"

    def as_dict(self) -> dict[str, float | int]:
        return {"n": self.n, "ratio": self.ratio, "low": self.low, "high": self.high}


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Of one time per round of each, in the order of the rounds.

    Raises:
        ValueError: different numbers of rounds, or none.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"rounds: got {len(ours)} and {len(theirs)}, allowed is the same number")
    ratios = np.asarray(theirs) / np.asarray(ours)
    # A fixed seed: the same samples give the same interval.
    draws = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Paired(len(ratios), float(np.median(ratios)), float(low), float(high))
