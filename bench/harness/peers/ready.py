"""From peers to contenders: prepared, their output checked, or the reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from harness.contest import Contender, one_line
from harness.oracle import Oracle
from harness.peers.base import Given, Peer, Ready


@dataclass
class Field:
    """The contenders of one job, what is known of each, and the seconds that it took."""

    contenders: list[Contender] = field(default_factory=list)
    facts: dict[str, dict[str, object]] = field(default_factory=dict)
    seconds: float = 0.0


def prepare(
    peers: Sequence[Peer],
    given: Given,
    oracle: Oracle,
    left_out: Callable[[Peer, float], str | None],
    tick: Callable[[str], None],
) -> Field:
    """Every peer as a contender. ``left_out`` may say why one is not even prepared, when told the
    seconds spent so far."""
    found, started = Field(), time.perf_counter()
    for peer in peers:
        tick(f"{peer.name}: preparing")
        why = left_out(peer, time.perf_counter() - started)
        ready: Ready | None = None
        if why is None:
            ready, why = _try(peer, given, oracle, found.facts)
        work = None if ready is None else ready.run
        found.contenders.append(Contender(peer.name, work, why))
    found.seconds = time.perf_counter() - started
    return found


def _try(
    peer: Peer, given: Given, oracle: Oracle, facts: dict[str, dict[str, object]]
) -> tuple[Ready | None, str | None]:
    try:
        why = peer.cannot(given)
        if why is not None:
            return None, why
        ready = peer.prepare(given)
        rel = oracle.errors(ready.logits(ready.run())).rel
        facts[peer.name] = {
            "version": peer.version(), **ready.facts(), "error": rel, "allowed": oracle.bound,
        }  # fmt: skip
    except Exception as error:  # a peer may fail in any way; it is reported, never dropped
        return None, one_line(error)
    if not rel <= oracle.bound:  # a NaN is wrong too
        return None, f"wrong: error {rel:.2g} against float64, allowed {oracle.bound:.2g}"
    return ready, None
