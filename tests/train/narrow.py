"""``python -m vggfast.train`` with narrow nets, on one thread: processes to kill and to join.

As ``python -m tests.train.narrow ARGUMENTS`` for torchrun, or by :class:`Run` from a server that
has imported everything already, so that a process starts in a tenth of a second.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.train.helpers import narrow_nets
from vggfast.train.cli import main

LONGEST = 120  # seconds that a process may take
COMMON = ["--device", "cpu", "--threads", "1"]


def train(argv: list[str]) -> int:
    """Train with narrow nets; the exit code of the command."""
    patch = pytest.MonkeyPatch()
    narrow_nets(patch)
    try:
        return main([*argv, *COMMON])
    finally:
        patch.undo()


class Run:
    """A training process. ``log`` gets what it prints; ``rank`` of ``world`` joins it to others."""

    def __init__(
        self, argv: list[str], log: Path, rank: int = 0, world: int = 1, port: int = 0
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.train.narrow"])
        env = {}
        if world > 1:
            env = {
                "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        self.log = log
        self.process = context.Process(target=_child, args=(argv, str(log), env))
        self.process.start()

    def wait(self, seconds: float = LONGEST) -> int:
        """The exit code; -9 if it was killed."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"the process has not ended:\n{self.log.read_text()}")
        return self.process.exitcode


def _child(argv: list[str], log: str, env: dict[str, str]) -> None:
    os.environ.update(env)
    multiprocessing.set_start_method("fork", force=True)  # of workers, as under the real command
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    dist.destroy_process_group = _checked(dist.destroy_process_group)
    faulthandler.dump_traceback_later(LONGEST - 10)  # if it hangs, where
    sys.exit(train(argv))


def _checked(destroy: Callable[[], None]) -> Callable[[], None]:
    """``destroy``, which must find the group in nobody else's hands: a wrapper that is freed after
    it would wait, with the interpreter's lock, for gloo's threads, which may wait for that lock."""

    def checked() -> None:
        assert not [o for o in gc.get_objects() if type(o) is DistributedDataParallel]
        destroy()

    return checked


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
