"""The kernels among threads: several callers, forks, thread counts, and none that runs idle."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import vggfast
from vggfast import ops

_PRELUDE = """
import os, signal, sys, threading, time, torch
from vggfast import ops
from vggfast.backends import native
torch.set_num_threads(int(sys.argv[1]))
x, w = torch.randn(1, 32, 40, 40), torch.randn(48, 32, 3, 3)
a, b = torch.randn(4, 300), torch.randn(70, 300)
def work():
    y = ops.conv3x3(x, w, relu=True, pool=True, backend="cpu")
    return torch.cat([y.flatten(), ops.linear(a, b, backend="cpu").flatten()])
want = work()
"""


def run(code: str, threads: int) -> str:
    """What a fresh process prints in which the kernels ran on so many threads."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PRELUDE + code, str(threads)], text=True,
        capture_output=True, timeout=60, check=False, env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def leaves(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    return [torch.randn(shape, requires_grad=True) for shape in shapes]


def with_gradients(function, tensors) -> list[torch.Tensor]:
    y = function(*tensors, relu=True, backend="cpu")
    return [y.detach(), *torch.autograd.grad(y.square().sum(), tensors)]


def test_several_callers_get_what_one_gets():
    """More callers than cores, each with its own number of threads, on shared weights."""
    conv, fc = leaves((2, 40, 18, 18), (36, 40, 3, 3), (36,)), leaves((5, 90), (33, 90), (33,))
    model = vggfast.vgg("A", num_classes=10, crop=32).eval()
    image = torch.randn(1, 3, 32, 32)

    def work(threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)  # torch's count is each thread's own
        with torch.inference_mode():
            logits = model(image)
        return [logits, *with_gradients(ops.conv3x3, conv), *with_gradients(ops.linear, fc)]

    counts = (1, 2, 3, 4)
    with ThreadPoolExecutor(1) as one:
        want = list(one.map(work, counts))
    with ThreadPoolExecutor(4) as many:
        for _ in range(3):
            for got, right in zip(many.map(work, counts), want, strict=True):
                assert all(map(torch.equal, got, right))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_repeat_for_a_thread_count(threads):
    conv, fc = leaves((2, 40, 18, 18), (36, 40, 3, 3), (36,)), leaves((5, 90), (33, 90), (33,))
    before, found = torch.get_num_threads(), []
    try:
        for count in (threads, 5, threads):
            torch.set_num_threads(count)
            found.append(with_gradients(ops.conv3x3, conv) + with_gradients(ops.linear, fc))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, found[0], found[2]))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_as_many_threads_run_as_torch_says_and_none_runs_idle():
    """libgomp's threads wait awake for milliseconds before they sleep.

    A thread that waits awake would take 0.5 s of processor time in the 0.5 s that nothing runs.
    """
    code = """
def tasks():
    return len(os.listdir("/proc/self/task"))
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(100):
    work()
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print("one thread takes as much time as passes:", cpu < 1.2 * wall)
started = tasks()
torch.set_num_threads(4)
work()
print("threads more with four:", tasks() - started)
torch.set_num_threads(2)  # no more than cores: then they wait awake for longest
work()
time.sleep(0.1)
before = time.process_time()
time.sleep(0.5)
print("asleep:", time.process_time() - before < 0.1)
"""
    assert run(code, threads=1).splitlines() == [
        "one thread takes as much time as passes: True",
        "threads more with four: 3",
        "asleep: True",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_children_can_use_it():
    """libgomp alone would wait for ever, in a child, for threads that only the parent has."""
    code = """
def forked(function):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # a child that hangs ends
        os._exit(0 if function() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
def right(threads=3):
    return torch.equal(work(), want) and torch.get_num_threads() == threads
def elsewhere():
    thread = threading.Thread(target=lambda: results.append(forked(right)))
    thread.start()
    thread.join()
    return results.pop()
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return work()
results = []
print("child:", forked(right))
print("child of a child:", forked(lambda: right() and forked(right)))
print("child of a thread:", elsewhere())
print("parent:", right())
loader = torch.utils.data.DataLoader(Data(), num_workers=2, multiprocessing_context="fork")
print("workers:", all(torch.equal(got[0], want) for got in loader))
native.module().end_threads = lambda: False
print("where the runtime cannot end threads, on one:", forked(lambda: right(threads=1)))
"""
    lines = run(code, threads=3).splitlines()
    assert len(lines) == 6
    assert [line for line in lines if not line.endswith(": True")] == []
