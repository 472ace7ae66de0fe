"""Memory kept between calls: returned on request, bounded, never shared by two at once."""

from __future__ import annotations

import copy
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vggfast import ops
from vggfast.backends import cpu_memory, native


def _convolve(x, w):
    return ops.conv3x3(x, w, relu=True, backend="cpu")


def test_it_is_kept_and_returned():
    lib = native.module()
    lib.memory_clear()
    assert lib.memory_kept_bytes() == 0
    x, w = torch.randn(2, 64, 28, 28), torch.randn(64, 64, 3, 3)
    want = _convolve(x, w)
    kept = lib.memory_kept_bytes()
    assert kept > 0
    for _ in range(5):
        assert torch.equal(_convolve(x, w), want)
    assert lib.memory_kept_bytes() <= 2 * kept  # the kept weights' scratch comes and goes
    lib.memory_clear()
    assert lib.memory_kept_bytes() == 0


def test_calls_from_several_threads_do_not_share_it():
    cases = [(torch.randn(1, c, 20, 20), torch.randn(c, c, 3, 3)) for c in (16, 40, 64, 96)]
    want = [_convolve(*case) for case in cases]
    wrong = []

    def work(i):
        torch.set_num_threads(1)
        for _ in range(20):
            if not torch.equal(_convolve(*cases[i]), want[i]):
                wrong.append(i)

    before = torch.get_num_threads()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(cases))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    torch.set_num_threads(before)
    assert wrong == []


LARGE = (2, 64, 96, 96)  # 4.5 MB, so it comes from the pool


def test_a_large_result_returns_its_memory_with_its_last_tensor():
    lib = native.module()
    x, w = torch.randn(LARGE), torch.randn(64, 64, 3, 3)
    y = _convolve(x, w)
    want, part = y.clone(), y[1:, :3]
    kept = lib.memory_kept_bytes()
    del y
    assert lib.memory_kept_bytes() == kept  # `part` still uses it
    assert torch.equal(part, want[1:, :3])
    del part
    assert lib.memory_kept_bytes() >= kept + want.nbytes


def test_a_large_result_is_an_ordinary_tensor():
    w = torch.randn(64, 64, 3, 3, requires_grad=True)
    y = ops.conv3x3(torch.randn(LARGE), w, backend="cpu")
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y._is_view()
    y.add_(1).sum().backward()  # changed in place under autograd
    torch.save(y.detach(), buffer := io.BytesIO())
    buffer.seek(0)
    assert torch.equal(torch.load(buffer), y)
    assert torch.equal(copy.deepcopy(y.detach()), y)


def test_a_large_result_is_poisoned_where_torchs_are():
    """Else what a kernel leaves unwritten would hold the last call's right values."""
    assert cpu_memory.empty((1 << 20,)).isnan().all()
    torch.utils.deterministic.fill_uninitialized_memory = False
    cpu_memory.empty((1 << 20,)).fill_(1)
    assert cpu_memory.empty((1 << 20,)).eq(1).all()


def test_what_is_held_is_bounded_by_what_was_in_use():
    lib = native.module()
    lib.memory_clear()
    most, sizes = 0, [3, 40, 7, 90, 11, 60, 5, 80, 23]  # MB, one at a time
    for _ in range(3):
        for megabytes in sizes:
            block = lib.Memory(megabytes << 18)
            del block
            most = max(most, lib.memory_kept_bytes())
    assert 90 * 2**20 <= most <= 91 * 2**20
    assert lib.memory_kept_bytes() == most
    lib.memory_clear()


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5000)), max_size=60))
@settings(max_examples=50)
def test_blocks_never_overlap(requests):
    """Each slot's block is replaced again and again; all keep what was written into them."""
    lib = native.module()
    slots = {}
    for i, (slot, size) in enumerate(requests):
        slots.pop(slot, None)
        block = torch.frombuffer(lib.Memory(size), dtype=torch.float32).fill_(i)
        assert block.data_ptr() % 64 == 0
        slots[slot] = (i, block)
        for value, held in slots.values():
            assert torch.equal(held, torch.full_like(held, value))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_memory_of_its_own():
    code = (
        "import os, torch\nfrom vggfast.backends.cpu_memory import empty\n"
        "torch.set_num_threads(1)\n"
        "mine = empty((1 << 20,)).fill_(1)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    mine.fill_(2); other = empty((1 << 20,)).fill_(3)\n"
        "    os._exit(0 if bool((mine == 2).all()) else 1)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0\n"
        "assert bool((mine == 1).all())"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], timeout=60, check=True)


def test_it_works_where_addresses_are_scarce():
    """With too little room to reserve, blocks come from the system's allocator."""
    code = (
        "import resource, torch\nfrom vggfast.backends import native\nlib = native.module()\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20),) * 2)\n"
        "block = torch.frombuffer(lib.Memory(1 << 20), dtype=torch.float32).fill_(1)\n"
        "assert bool((block == 1).all()) and lib.memory_kept_bytes() == 0\n"
        "del block"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux limits a process's addresses")
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_a_size_out_of_range_is_refused():
    with pytest.raises(ValueError, match="floats: at least 1"):
        native.module().Memory(0)
    with pytest.raises(MemoryError):
        native.module().Memory(1 << 50)
