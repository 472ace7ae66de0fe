"""Packed weights: the kernel against torch bit for bit, what is kept, and what is made anew."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from triton_cases import DTYPES, GPU, maps, weights
from vggfast.kernels import kept, ops
from vggfast.kernels.launch import weights as rows_of
from vggfast.kernels.launch.memory import unit

import vggfast


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    kept.changed()
    yield
    kept.changed()


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The ``transposed`` of each packing from here on."""
    seen: list[bool] = []
    real = rows_of.pack

    def counting(w: Tensor, transposed: bool, rows: Tensor | None = None) -> Tensor:
        seen.append(transposed)
        return real(w, transposed, rows)

    monkeypatch.setattr(rows_of, "pack", counting)
    return seen


def plain(w: Tensor, transposed: bool) -> Tensor:
    """The rows by torch."""
    rows = w.permute(2, 3, 1, 0) if transposed else w.permute(2, 3, 0, 1)
    rows = rows.reshape(9 * rows.shape[2], rows.shape[3])
    return F.pad(rows, (0, -rows.shape[1] % unit(w)))


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int16 if t.element_size() == 2 else torch.int32)


def forms(w: Tensor) -> dict[str, Tensor]:
    """The same weights in other memory layouts, an odd start among them."""
    shifted = torch.zeros(w.numel() + 3, dtype=w.dtype, device=w.device)[3:].view(w.shape)
    spread = torch.zeros((*w.shape[:2], 5, 7), dtype=w.dtype, device=w.device)
    return {
        "contiguous": w,
        "channels_last": w.contiguous(memory_format=torch.channels_last),
        "transposed": w.transpose(0, 1).contiguous().transpose(0, 1),
        "shifted": shifted.copy_(w),
        "spread": spread[:, :, 1:4, 1:6:2].copy_(w),
    }


@pytest.mark.parametrize("dtype", (*DTYPES, torch.bfloat16)[:3], ids=str)
@pytest.mark.parametrize("size", [(1, 1), (64, 3), (3, 5), (17, 72), (8, 8)], ids=str)
def test_rows_are_torchs(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    w, _ = weights(*size, dtype, device, seed=1)
    w[0, 0, 1, 2], w[-1, -1, 0, 0] = float("nan"), -0.0
    for name, given in forms(w).items():
        for transposed in (False, True):
            ours = rows_of.pack(given, transposed)
            assert ours.is_contiguous(), name
            assert torch.equal(bits(ours), bits(plain(w, transposed))), (name, transposed)


def test_kept_from_the_second_call(device: torch.device, launches: list[bool]) -> None:
    w, _ = weights(8, 5, torch.float32, device, seed=2)
    first, second, third = (rows_of.tap_rows(w, False) for _ in range(3))
    assert launches == [False, False]
    assert second is third
    assert first is not second
    assert kept.kept_bytes() == second.nbytes == 9 * 8 * 8 * 4
    # A form of its own, and another shape in the same memory, are entries of their own.
    rows_of.tap_rows(w, True)
    rows_of.tap_rows(w.view(5, 8, 3, 3), False)
    assert launches == [False, False, True, False]


def test_changes_are_seen(device: torch.device, launches: list[bool]) -> None:
    w, _ = weights(4, 4, torch.float32, device, seed=3)
    p = nn.Parameter(w)

    def keep() -> None:
        for _ in range(3):
            rows = rows_of.tap_rows(p, False)
        assert torch.equal(rows, plain(p.detach(), False))

    changes = {
        "in place": lambda: p.detach().mul_(2),
        "moved": lambda: setattr(p, "data", p.data.clone().mul_(3)),
        "loaded": lambda: nn.ParameterDict({"p": p}).load_state_dict({"p": torch.ones(4, 4, 3, 3)}),
        "through .data and told": lambda: (p.data.mul_(5), kept.changed()),
    }
    keep()
    for what, change in changes.items():
        with torch.no_grad():
            change()
        before = len(launches)
        keep()
        assert len(launches) == before + 2, what


@pytest.mark.parametrize("fused", [True, False])
def test_steps_of_an_optimizer_are_seen(
    fused: bool, device: torch.device, launches: list[bool]
) -> None:
    """torch's fused optimizers change weights without counting their version up."""
    w, _ = weights(4, 4, torch.float32, device, seed=4)
    p = nn.Parameter(w)
    optimizer = torch.optim.SGD([p], 0.5, momentum=0.9, fused=fused)
    for _ in range(3):
        rows_of.tap_rows(p, False)
    p.grad = torch.ones_like(p)
    optimizer.step()
    for _ in range(3):
        rows = rows_of.tap_rows(p, False)
    assert torch.equal(rows, plain(p.detach(), False))
    assert len(launches) == 4


def test_a_training_loop_keeps_nothing(device: torch.device, launches: list[bool]) -> None:
    """Packed once for fprop and once for dgrad a step, right each time, and not held after it."""
    x = maps((2, 4, 4, 4), torch.float32, device, seed=5).requires_grad_()
    w, _ = weights(4, 4, torch.float32, device, seed=5)
    p = nn.Parameter(w)
    optimizer = torch.optim.SGD([p], 0.1, momentum=0.9, fused=True)
    for _ in range(2):
        vggfast.ops.conv3x3(x, p, backend="triton").square().sum().backward()
        optimizer.step()
        assert kept.kept_bytes() == 0
    assert launches == [False, True] * 2


def test_storage_gone(device: torch.device) -> None:
    """Rows go with their weights, and new weights in the same place are not taken for them."""
    for value in range(4):
        w = torch.full((4, 4, 3, 3), float(value), device=device)
        for _ in range(3):
            assert rows_of.tap_rows(w, False).unique().tolist() == [value]
        del w
    gc.collect()
    assert kept.kept_bytes() == 0


def test_a_copy_is_not_the_original(device: torch.device) -> None:
    conv = nn.Conv2d(4, 4, 3, device=device)
    for _ in range(2):
        rows_of.tap_rows(conv.weight, False)
    twin = copy.deepcopy(conv)
    with torch.no_grad():
        twin.weight.add_(1)
    for _ in range(3):
        assert torch.equal(rows_of.tap_rows(twin.weight, False), plain(twin.weight.detach(), False))
        assert torch.equal(rows_of.tap_rows(conv.weight, False), plain(conv.weight.detach(), False))


def test_inference_tensors_are_not_kept(device: torch.device, launches: list[bool]) -> None:
    with torch.inference_mode():
        w = torch.ones(4, 4, 3, 3, device=device)
        for value in (1, 2, 3):
            assert rows_of.tap_rows(w.fill_(value), False).unique().tolist() == [value]
    assert launches == [False] * 3
    assert kept.kept_bytes() == 0


def test_threads(device: torch.device) -> None:
    made = [weights(4, 4, torch.float32, device, seed=s)[0] for s in range(4)]
    wrong: list[object] = []

    def work() -> None:
        try:
            for i in range(12):
                w = made[i % 4]
                if not torch.equal(rows_of.tap_rows(w, i % 3 == 0), plain(w, i % 3 == 0)):
                    wrong.append(i)
        except Exception as error:
            wrong.append(error)

    # The interpreter patches triton.language while a kernel runs: rows are there before it starts.
    for w in made:
        for transposed in (False, False, True, True):
            rows_of.tap_rows(w, transposed)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_held_rows_stay_in_place(device: torch.device, launches: list[bool]) -> None:
    w, _ = weights(4, 4, torch.float32, device, seed=6)
    other, _ = weights(4, 4, torch.float32, device, seed=7)
    held = kept.Held([w])
    with held.use():
        first = rows_of.tap_rows(w, False)
        assert rows_of.tap_rows(w, False) is first
        assert held.packed(other, ("rows", False), rows_of.pack) is None
    assert held.nbytes == first.nbytes
    assert not held.refresh()
    assert launches == [False]
    address = first.data_ptr()
    for change in (lambda: w.mul_(2), lambda: (w.data.mul_(3), kept.changed())):
        change()
        assert held.refresh()
        assert not held.refresh()
        assert first.data_ptr() == address
        assert torch.equal(first, plain(w, False))
    w.data.mul_(5)  # unseen, as documented
    assert not held.refresh()
    assert held.refresh(force=True)
    assert torch.equal(first, plain(w, False))
    assert rows_of.tap_rows(w, False) is not first  # outside of use() the cache serves


def test_held_rows_are_this_threads(device: torch.device) -> None:
    w, _ = weights(4, 4, torch.float32, device, seed=8)
    held = kept.Held([w])
    seen: list[Tensor] = []
    with held.use():
        mine = rows_of.tap_rows(w, False)
        thread = threading.Thread(target=lambda: seen.append(rows_of.tap_rows(w, False)))
        thread.start()
        thread.join()
    assert seen[0] is not mine


@pytest.mark.skipif(not GPU, reason="captures a CUDA graph, which needs a GPU")
def test_a_capture_packs_for_itself(device: torch.device) -> None:
    w = torch.ones(4, 4, 3, 3, device=device)
    for _ in range(3):
        rows_of.tap_rows(w, False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rows = rows_of.tap_rows(w, False)
    w.fill_(7)
    graph.replay()
    assert rows.unique().tolist() == [7]


def test_one_launch(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    grids: list[tuple[int, int]] = []

    class Counting:
        def __getitem__(self, grid: tuple[int, int]) -> object:
            grids.append(grid)
            return kernel[grid]

    kernel = rows_of.pack3x3_kernel
    monkeypatch.setattr(rows_of, "pack3x3_kernel", Counting())
    w, _ = weights(17, 72, torch.float32, device, seed=9)
    rows_of.pack(w.transpose(2, 3), True)
    assert grids == [(5, 1)]
    assert ops.INTERPRETED != GPU
