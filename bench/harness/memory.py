"""Peak memory of inference and of a training step, ours and torch channels_last.

The kernel counts a peak per process, so each runs in a fresh one. The peak is that of the whole
process during a few calls: interpreter, torch and weights are in it, as they are for a user.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from harness.child import Child, ChildError, Job
from harness.contest import OURS
from harness.options import Options
from harness.peers import EVERY

SIDES = {OURS: OURS, **{p.name: p.key for p in EVERY if p.key == "channels_last"}}


@dataclass
class MemoryResult:
    """Bytes by contender: resident ``before`` the calls, and the ``peak``."""

    kind: str
    batch: int
    before: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    of_calls: bool = True  # else the peak may be that of building the network

    def ratio(self, name: str) -> float | None:
        """Of its peak to ours."""
        return self.peak[name] / self.peak[OURS] if {name, OURS} <= set(self.peak) else None

    def as_dict(self) -> dict[str, object]:
        return {
            "kind": self.kind, "batch": self.batch, "before_bytes": self.before,
            "peak_bytes": self.peak, "of_calls_alone": self.of_calls, "skipped": self.skipped,
            "ratio": {name: self.ratio(name) for name in self.peak if name != OURS},
        }  # fmt: skip


def measure(
    kind: str, batch: int, options: Options, tick: Callable[[str], None] = lambda text: None
) -> MemoryResult:
    """One process after the other, so that both have the machine to themselves."""
    result = MemoryResult(kind, batch)
    for name, side in SIDES.items():
        tick(name)
        try:
            with Child(Job(side, kind, batch, options)) as child:
                found = child.ask("memory")
        except ChildError as error:
            result.skipped[name] = str(error)
            continue
        result.before[name], result.peak[name] = found["before"], found["peak"]
        result.of_calls = result.of_calls and found["forgot"]
    return result
