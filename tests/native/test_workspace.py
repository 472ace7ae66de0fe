"""Scratch memory: kept between calls, returned on request, never shared by two calls at once."""

from __future__ import annotations

import threading

import torch

from vggfast import ops
from vggfast.backends import native


def _convolve(x, w):
    return ops.conv3x3(x, w, relu=True, backend="cpu")


def test_it_is_kept_and_returned():
    lib = native.module()
    lib.workspace_clear()
    assert lib.workspace_bytes() == 0
    x, w = torch.randn(2, 64, 28, 28), torch.randn(64, 64, 3, 3)
    want = _convolve(x, w)
    kept = lib.workspace_bytes()
    assert kept > 0
    for _ in range(5):
        assert torch.equal(_convolve(x, w), want)
    assert lib.workspace_bytes() <= 2 * kept  # the kept weights' scratch comes and goes
    lib.workspace_clear()
    assert lib.workspace_bytes() == 0


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
