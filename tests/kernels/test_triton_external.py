"""Tiles of form "cuda": the convolution in CUDA C++ beside Triton's, where a table has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from triton_cases import GPU, assert_close, maps, weights
from vggfast.kernels import external, ops, table_file, tiles, tuned
from vggfast.kernels.table_file import Entry, Gpu, Shape

from vggfast import backends, configs, reference
from vggfast.backends import cuda_conv
from vggfast.backends.eager import EagerBackend
from vggfast.tune import search

EAGER = EagerBackend()
H100 = Gpu("9.0", "NVIDIA H100 80GB HBM3")
ROWS = [t for t in tiles.table() if t.form == "cuda"]
WIDE = next(t for t in ROWS if (t.bc, t.cluster) == (128, 2))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test may offer what it likes."""
    backends.get("triton").unavailable()  # offers ours when it is first asked
    monkeypatch.setattr(external, "_offered", None)
    tuned.reload()
    yield
    monkeypatch.undo()
    tuned.reload()


@pytest.fixture
def calls(offered: None) -> list[tuple[bool, int]]:
    """A stand-in by torch is offered; notes (rotated, cluster) of its calls."""
    noted: list[tuple[bool, int]] = []

    def run(
        x: Tensor, w: Tensor, b: Tensor | None, relu: bool, pool: bool, save_argmax: bool,
        rotated: bool, cluster: int,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        assert x.is_contiguous(memory_format=torch.channels_last)
        noted.append((rotated, cluster))
        w = w.transpose(0, 1).flip(2, 3) if rotated else w
        return EAGER.conv3x3(x, w, b, relu, pool, save_argmax)

    external.offer(external.Kernel(lambda: None, run))
    return noted


def ask(c_in: int = 256, c_out: int = 256, gpu: Gpu = H100, n: int = 64) -> tuned.Query:
    return tuned.Query(
        "fprop", 90, 16, (n, 56, 56), c_out, c_in, "fprop", False, "bf16", gpu
    )  # fmt: skip


def test_rows_are_of_one_block_and_of_two() -> None:
    assert {(t.bc, t.cluster) for t in ROWS} == {(128, 1), (128, 2), (64, 1), (64, 2)}
    assert WIDE.name == "fprop_sm90_16b_1x14x14_128x64_cuda_cluster2"


def test_they_run_where_the_kernel_does(calls: list[tuple[bool, int]]) -> None:
    def able(query: tuned.Query) -> set[int]:
        return {t.bc for t in ROWS if tuned.runs(t, query)}

    assert able(ask()) == {128}
    assert able(ask(c_out=192)) == {64}
    assert able(ask(c_in=24)) == able(ask(c_out=24)) == set()
    assert able(ask(gpu=Gpu("10.0", "NVIDIA B200"))) == set()
    assert able(ask()._replace(kernel="dgrad")) == set()  # a chain's, whose epilogue it lacks
    external.offer(external.Kernel(lambda: "no GPU", lambda *_: pytest.fail("called")))
    assert able(ask()) == set()
    external.offer(None)
    assert able(ask()) == set()
    assert calls == []


@pytest.mark.usefixtures("calls")
def test_the_rule_takes_none_and_the_tuner_times_both() -> None:
    for batch in (1, 64, 256):
        for layer in configs.conv_layers("D")[1:]:
            query = ask(layer.c_in, layer.c_out)._replace(
                pixels=(batch, layer.h, layer.w), pool=layer.pool
            )
            chosen, _ = search.promising(query, 132)
            assert chosen[0].form == "loop"
            if batch >= 64:
                assert sum(t.form == "cuda" for t in chosen) == 2, layer


@pytest.mark.usefixtures("calls")
def test_an_entry_of_the_table_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(
        "fprop", Shape(64, 56, 56, 256, 256), H100, "bf16", WIDE, 0.5, 0.6, 64, "3.6.0", "2.11.0",
        "2026-11-25T00:00:00+00:00",
    )  # fmt: skip
    monkeypatch.setenv("VGGFAST_CACHE", str(tmp_path))
    table_file.user_path().write_text(table_file.render([entry.as_dict()], "of a test"))
    tuned.reload()
    assert tuned.choose(ask()) == WIDE
    assert tuned.choose(ask(n=100)) == WIDE  # a neighbour, and no waste
    assert tuned.choose(ask(gpu=Gpu("8.0", "NVIDIA A100"))).form == "loop"
    assert tuned.of_form("cuda", H100) == 1
    assert tuned.of_form("cuda", Gpu("8.0", "NVIDIA A100")) == 0
    external.offer(None)  # another build of the extension: the rule serves
    tuned.reload()
    assert tuned.choose(ask()).form == "loop"


def test_explain_says_that_a_table_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    triton, line = backends.get("triton"), "2 of these tiles are of CUDA C++: "
    for count, reason, told in (
        (0, None, []),
        (2, None, [line + "built by nvcc for sm_90a"]),
        (2, "no GPU", [line + "not used, no GPU"]),
    ):
        monkeypatch.setattr(tuned, "of_form", lambda form, gpu, count=count: count)
        monkeypatch.setattr(cuda_conv, "unavailable", lambda reason=reason: reason)
        assert triton.notes("conv3x3", "cuda" if GPU else "cpu")[1:] == told


@pytest.mark.parametrize("pool", [False, True])
def test_a_call_and_its_gradient(
    pool: bool, calls: list[tuple[bool, int]], device: torch.device
) -> None:
    x = maps((2, 64, 7, 6), torch.float16, device, seed=1)
    w, b = weights(128, 64, torch.float16, device, seed=1)
    with tiles.forced(WIDE):
        y, argmax = ops.conv3x3(x, w, b, True, pool, pool)
    wide = [t.double() for t in (x, w, b)]
    theirs, code = EAGER.conv3x3(x, w, b, True, pool, pool)
    assert_close("y", y, theirs, reference.conv3x3(*wide, True, pool), 9 * 64)
    assert (argmax is None) == (not pool)
    assert argmax is None or code is None or torch.equal(argmax, code)
    grad = maps((2, 128, 7, 6), torch.float16, device, seed=2)
    alone = (True, False, False)
    with tiles.forced(replace(WIDE, cluster=1)):
        dx, _, _ = ops.conv3x3_backward(grad, x, w, None, None, alone)
    how = (None, None, False, False, alone)
    theirs, _, _ = EAGER.conv3x3_backward(grad, x, w, *how)
    oracle, _, _ = EAGER.conv3x3_backward(grad.double(), *wide[:2], *how)
    assert_close("dx", dx, theirs, oracle, 9 * 128)
    assert calls == [(False, 2), (True, 1)]


@pytest.mark.usefixtures("offered")
def test_forced_where_it_cannot_run(device: torch.device) -> None:
    x = maps((1, 64, 4, 4), torch.float16, device, seed=1)
    w, b = weights(64, 64, torch.float16, device, seed=1)
    with tiles.forced(WIDE), pytest.raises(RuntimeError, match=f"tile {WIDE.name}: nobody has"):
        ops.conv3x3(x, w, b, True, False, False)


def test_the_triton_backend_offers_it() -> None:
    backends.get("triton").unavailable()
    assert external._offered is not None
    if not GPU:
        assert "GPU" in str(external.absent())
