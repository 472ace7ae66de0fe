"""What is measured in processes of its own, after the contests: memory, and two settings of one."""

from __future__ import annotations

from rich.console import Console

from harness.compare import compare
from harness.contest import Rounds
from harness.memory import measure
from harness.progress import Steps
from harness.results import Record

SECONDS = {False: 20.0, True: 4.0}  # of rounds in each comparison, by --quick


def run(record: Record, console: Console) -> None:
    """Fill the record's ``memory`` and ``comparisons``, as far as they are asked for."""
    o = record.options
    runs = [("inference", b) for b in o.batches]
    runs += [("training", o.train_batch)] if o.train_batch else []
    rounds = Rounds(SECONDS[o.quick], least=3, most=30, insist=True)
    jobs = len(runs) * (o.memory + len(o.compare))
    if not jobs:
        return
    with Steps(console, jobs) as steps:
        for kind, batch in runs if o.memory else ():
            steps.begin(f"memory, {kind}, batch {batch}")
            record.memory.append(measure(kind, batch, o, steps.tick))
            steps.end()
        for what in o.compare:
            for kind, batch in runs:
                steps.begin(f"compare {what}, {kind}, batch {batch}")
                record.comparisons.append(compare(what, kind, batch, o, rounds, steps.tick))
                steps.end()
