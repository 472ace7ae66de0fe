"""Medians and spread of timed samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
