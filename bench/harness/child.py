"""One contender in a process of its own, which does one call at a time when told to.

For what belongs to a process: its peak memory, the instructions its libraries may use. The child
builds the same network and images as the parent would (from the seed), then answers questions.
"""

from __future__ import annotations

import multiprocessing as mp
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from harness import isa, networks, rss
from harness.clock import SETTLE_SECONDS, CpuClock
from harness.contest import OURS, one_line
from harness.options import Options
from harness.peers import EVERY
from vggfast import backends, exact

WARM_UPS = 2  # ours keeps transformed weights from the second call on


class ChildError(Exception):
    """The child failed or ended; one line says how."""


@dataclass(frozen=True)
class Job:
    """``side`` is ours or a peer's key; ``kind`` inference or training."""

    side: str
    kind: str
    batch: int
    options: Options


class Child:
    """Started with ``environment`` added to this process's own; ended when the context is left."""

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None) -> None:
        context = mp.get_context("spawn")  # a fork would inherit this process's memory and threads
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, job), daemon=True)
        with _environment(environment or {}):
            self._process.start()
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pipe.close()  # the child sees the end of its pipe and ends
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def ask(self, question: str) -> Any:
        """``seconds`` of a warm call, ``memory`` of a few, ``facts`` of what was built.

        Raises:
            ChildError: it failed, or is gone.
        """
        try:
            self._pipe.send(question)
            worked, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(10)
            raise ChildError(f"its process ended, exit code {self._process.exitcode}") from error
        if not worked:
            raise ChildError(answer)
        return answer


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def serve(pipe: Connection, job: Job) -> None:
    """The child: build at the first question, answer until the pipe is closed."""
    torch.set_num_threads(job.options.threads)
    with exact(job.options.exact):
        _answer(pipe, job)


def _answer(pipe: Connection, job: Job) -> None:
    clock = CpuClock(SETTLE_SECONDS)
    step: _Step | None = None
    while True:
        try:
            question = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            step = step or _build(job)
            answer: Any = None
            if question == "seconds":
                (answer,) = clock.measure(step.work, 1)
            elif question == "memory":
                answer = rss.peak(step.work, WARM_UPS + 1)
            elif question == "facts":
                answer = _facts(step, job)
            else:
                raise AssertionError(f"no such question: {question}")
        except Exception as error:
            pipe.send((False, one_line(error)))
        else:
            pipe.send((True, answer))


@dataclass(frozen=True)
class _Step:
    work: Callable[[], object]
    logits: Callable[[Any], torch.Tensor] | None  # of what an inference call returns
    digest: float  # of weights and images


def _build(job: Job) -> _Step:
    """The call, as the whole-network timings make it."""
    o, training = job.options, job.kind == "training"
    model = networks.build(o)
    dtype = torch.float32 if training else o.dtype
    if training:
        model.to(dtype)
    else:
        networks.inference_form(model, o)
    x = networks.images(job.batch, o, dtype)
    digest = sum(t.sum(dtype=torch.float64).item() for t in (x, *model.state_dict().values()))
    if job.side == OURS:
        if not training:
            return _Step(networks.ours(model, x), torch.Tensor.float, digest)
        last = networks.laid_out(x, True)
        wanted = networks.labels(job.batch, o)
        return _Step(networks.training_step(model.train(), last, wanted, o), None, digest)
    (peer,) = (p for p in EVERY if p.key == job.side)
    given = networks.given(model, x, o)
    why = peer.cannot(given)
    if why is not None:
        raise ChildError(why)
    if not training:
        ready = peer.prepare(given)
        return _Step(ready.run, ready.logits, digest)
    module, mine, forward = peer.trainee(given)
    wanted = networks.labels(job.batch, o)
    return _Step(networks.training_step(module, mine, wanted, o, forward), None, digest)


def _facts(step: _Step, job: Job) -> dict[str, Any]:
    """What was built, and on which instructions a warm call of it runs."""
    for _ in range(WARM_UPS - 1):
        step.work()
    result, told = isa.witness(step.work)
    if job.side == OURS:
        told = [f"vggfast: {_own_kernel(job.options)}", *told]
    logits = None if step.logits is None else step.logits(result).numpy()
    return {"digest": step.digest, "logits": logits, "isa": told}


def _own_kernel(options: Options) -> str:
    call = backends.Call("conv3x3", "cpu", options.dtype, 64, 64)
    return backends.select(call, options.backend).how("conv3x3")
