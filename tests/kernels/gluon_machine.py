"""A machine to run a Gluon kernel's protocol on: partitions, mbarriers, asynchronous copies.

Triton has no interpreter for Gluon. Here each partition is a thread, of which one runs at a time,
and what the hardware does by itself (a TMA load landing, products being made, a TMA store reading
its buffer) is an event that happens some time after it was asked for. Who is next is drawn from a
seed, by weights: of each kind of event (six seeds in a row meet every ranking of the three), of
each event, and of a partition, which changes its own now and then. What no order may do raises a
``HazardError``; if nobody can go on, a ``DeadlockError``.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any


class HazardError(Exception):
    """Something was read or written that is not ready, or a barrier was misused."""


class DeadlockError(Exception):
    """Every partition waits and no event is outstanding."""


class _Stopped(BaseException):
    """Ends a partition's thread after another one has failed."""


@dataclass(eq=False)
class Span:
    """Elements ``begin`` to ``end`` of one allocation of shared memory."""

    memory: Any
    begin: int
    end: int

    def meets(self, other: Span) -> bool:
        same = self.memory is other.memory
        return same and self.begin < other.end and other.begin < self.end


@dataclass(eq=False)
class Event:
    """An asynchronous action: what it reads or writes in shared memory, and its effect."""

    kind: str  # "load" writes its spans; "product" and "store" read them
    spans: list[Span]
    effect: Callable[[], None]
    weight: float
    done: bool = False


@dataclass(eq=False)
class Barrier:
    """An mbarrier: a phase completes when ``count`` have arrived and all bytes have landed."""

    count: int = 0
    arrived: int = 0
    bytes: int = 0
    completed: int = 0

    def arrive(self) -> None:
        if self.count == 0:
            raise HazardError("a barrier is used before its init")
        self.arrived += 1
        if self.arrived > self.count:
            raise HazardError(f"{self.arrived} arrivals at a barrier for {self.count}")
        self._settle()

    def expect(self, size: int) -> None:
        self.bytes += size
        self.arrive()

    def land(self, size: int) -> None:
        if size > self.bytes:
            raise HazardError(f"{size} bytes land where {self.bytes} are expected")
        self.bytes -= size
        self._settle()

    def passed(self, parity: int) -> bool:
        """The phase before the current one has this parity (1 before the first)."""
        return (self.completed & 1) != parity

    def _settle(self) -> None:
        if self.arrived == self.count and self.bytes == 0:
            self.arrived = 0
            self.completed += 1


@dataclass(eq=False)
class Partition:
    """A thread of the machine, and the asynchronous actions it waits for in order."""

    weight: float
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    ready: Callable[[], bool] = lambda: True
    over: bool = False
    products: list[Event] = field(default_factory=list)
    stores: list[Event] = field(default_factory=list)
    unfenced: list[Span] = field(default_factory=list)


class Machine:
    """One program's worth of hardware."""

    def __init__(self, seed: int, program: int) -> None:
        self.random = random.Random(f"{seed} {program}")
        self.loads: list[Event] = []
        self.partitions: list[Partition] = []
        self.barriers: list[Barrier] = []
        speeds = list(permutations((1e-5, 1.0, 1e5)))[seed % 6]
        self._speeds = dict(zip(("load", "product", "store"), speeds, strict=True))
        self._back = threading.Semaphore(0)
        self._failure: BaseException | None = None
        self._stopped = False
        self._local = threading.local()

    def _weight(self) -> float:
        return self.random.choice((0.01, 1.0, 100.0))

    @property
    def me(self) -> Partition:
        """The partition whose thread this is."""
        partition: Partition = self._local.partition
        return partition

    def outstanding(self) -> list[Event]:
        rest = [e for p in self.partitions for e in (*p.products, *p.stores)]
        return [*self.loads, *rest]

    def pause(self, ready: Callable[[], bool] = lambda: True) -> None:
        """Let others go first; go on when ``ready``."""
        me = self.me
        me.ready = ready
        if self.random.random() < 0.1:
            me.weight = self._weight()
        self._back.release()
        me.turn.acquire()
        if self._stopped:
            raise _Stopped

    def ask(self, kind: str, spans: list[Span], effect: Callable[[], None]) -> Event:
        """Begin an asynchronous action; a hazard if it meets one that is under way."""
        for other in self.outstanding():
            if "load" in (kind, other.kind) and any(a.meets(b) for a in spans for b in other.spans):
                raise HazardError(f"a {kind} begins in a buffer where a {other.kind} is under way")
        event = Event(kind, spans, effect, self._speeds[kind] * self._weight())
        queue = {"load": self.loads, "product": self.me.products, "store": self.me.stores}[kind]
        queue.append(event)
        return event

    def check_write(self, span: Span) -> None:
        """Ordinary stores to shared memory."""
        if any(span.meets(other) for e in self.outstanding() for other in e.spans):
            raise HazardError("a buffer is written while an asynchronous action uses it")

    def run(self, functions: list[Callable[[], None]]) -> None:
        """Run the partitions to their end."""
        threads = []
        for function in functions:
            partition = Partition(self._weight())
            self.partitions.append(partition)
            thread = threading.Thread(target=self._body, args=(partition, function), daemon=True)
            threads.append(thread)
            thread.start()
        try:
            while self._failure is None and not all(p.over for p in self.partitions):
                self._next()
            while self._failure is None and self.outstanding():
                self._next()
        finally:
            self._stopped = True
            for partition in self.partitions:
                partition.turn.release()
            for thread in threads:
                thread.join()
        if self._failure is not None:
            raise self._failure

    def _next(self) -> None:
        able: list[tuple[float, Any]] = [
            (p.weight, p) for p in self.partitions if not p.over and p.ready()
        ]
        able += [(e.weight, (self.loads, e)) for e in self.loads]
        for p in self.partitions:  # products and stores of a thread are done in order
            able += [(q[0].weight, (q, q[0])) for q in (p.products, p.stores) if q]
        if not able:
            raise DeadlockError("every partition waits and nothing is under way")
        chosen = self.random.choices([a for _, a in able], [w for w, _ in able])[0]
        if isinstance(chosen, Partition):
            chosen.turn.release()
            self._back.acquire()
            return
        queue, event = chosen
        queue.remove(event)
        event.effect()
        event.done = True

    def _body(self, partition: Partition, function: Callable[[], None]) -> None:
        self._local.partition = partition
        partition.turn.acquire()
        try:
            if not self._stopped:
                function()
                if partition.stores:
                    raise HazardError("a partition ends while a store still reads shared memory")
                if partition.products:
                    raise HazardError("a partition ends while products are being made")
        except _Stopped:
            return
        except BaseException as failure:
            self._failure = self._failure or failure
        partition.over = True
        self._back.release()
