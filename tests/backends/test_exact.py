"""``vggfast.exact()`` keeps convolutions to plain sums: in its thread, while it lasts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import vggfast
from tests.train.helpers import write_idx
from vggfast import ops
from vggfast.backends import cpu_conv

LARGE = (4, 28, 28, 64, 64)  # pixels and channels for which Winograd is chosen
Results = tuple[torch.Tensor, ...]


def chosen() -> tuple[str, str]:
    return cpu_conv.choose(*LARGE).name, cpu_conv.choose_wgrad(*LARGE).name


def results(algorithm: str | None, monkeypatch: pytest.MonkeyPatch) -> Results:
    """y, dx and dw of one convolution; the seed makes it the same every time."""
    with monkeypatch.context() as patch:
        if algorithm is not None:
            patch.setenv("VGGFAST_CPU_CONV", algorithm)
        g = torch.Generator().manual_seed(3)
        x = torch.randn(1, 64, 28, 28, generator=g).requires_grad_()
        w = torch.randn(64, 64, 3, 3, generator=g).requires_grad_()
        y = ops.conv3x3(x, w, backend="cpu")
        return y, *torch.autograd.grad(y, (x, w), torch.ones_like(y))


def test_results_are_those_of_the_direct_kernel(monkeypatch):
    direct, fast = results("direct", monkeypatch), results("f4", monkeypatch)
    with vggfast.exact():
        for algorithm in (None, "f4"):  # it goes before the environment
            for got, want, other in zip(results(algorithm, monkeypatch), direct, fast, strict=True):
                assert torch.equal(got, want)
                assert not torch.equal(got, other)


def test_it_nests_and_ends():
    assert "direct" not in chosen()
    with vggfast.exact():
        with vggfast.exact(False):
            assert "direct" not in chosen()
        assert chosen() == ("direct", "direct")
    assert "direct" not in chosen()


def test_an_error_ends_it():
    with pytest.raises(vggfast.InputError), vggfast.exact():
        ops.conv3x3(torch.randn(1, 2, 3), torch.randn(1, 2, 3, 3))
    assert "direct" not in chosen()


def test_other_threads_are_not_affected():
    seen = []
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with vggfast.exact():
            inside.set()
            assert leave.wait(30)
            seen.append(chosen())

    thread = threading.Thread(target=work)
    thread.start()
    assert inside.wait(30)
    assert "direct" not in chosen()
    leave.set()
    thread.join()
    assert seen == [("direct", "direct")]


def test_explain_says_which_algorithms_may_run(monkeypatch):
    assert "Winograd where it is faster" in vggfast.explain("cpu")
    with vggfast.exact():
        assert "direct: exact" in vggfast.explain("cpu")
    monkeypatch.setenv("VGGFAST_CPU_CONV", "f6")
    assert "Winograd f6: VGGFAST_CPU_CONV=f6" in vggfast.explain("cpu")


def test_training_can_ask_for_it(tmp_path: Path, monkeypatch):
    seen = []
    choose = cpu_conv.choose
    monkeypatch.setattr(
        "vggfast.backends.cpu.choose", lambda *a: seen.append(choose(*a)) or seen[-1]
    )
    data = f"mnist:{write_idx(tmp_path / 'idx')}"
    for exact in (True, False):
        seen.clear()
        vggfast.train.fit(data=data, limit=8, epochs=1, exact=exact, progress=False)
        assert all(how.name == "direct" for how in seen) is exact
    assert "direct" not in chosen()
