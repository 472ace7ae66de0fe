"""The Gluon convolution: its protocol and numbers in a model; on Hopper the compiled kernel itself.

The model runs the kernel's own source in Python (gluon_model.py) and needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from triton_cases import GPU, assert_close, maps, weights
from vggfast.kernels import gluon_plan, ops, tiles
from vggfast.kernels.launch import gluon
from vggfast.kernels.launch.fprop import fprop
from vggfast.kernels.launch.memory import aligned

from vggfast import reference
from vggfast.backends import argmax as packed
from vggfast.backends.eager import EagerBackend

EAGER = EagerBackend()
ABSENT = gluon_plan.absent()
if ABSENT is None:
    from gluon_machine import DeadlockError, HazardError
    from gluon_model import Model
    from vggfast.kernels import gluon3x3

needs_gluon = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
CPU = torch.device("cpu")
ENTRIES = [t for t in tiles.table() if t.form == "gluon"]
SPLITS = {gluon_plan.plan(t, False).constants["SPLIT"]: t for t in reversed(ENTRIES)}
Use = Callable[..., None]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Let the model serve launches of Gluon tiles, on CPU tensors, with few programs."""
    if GPU:
        pytest.skip("the other kernels are compiled here and take no CPU tensors")

    def use(
        seed: int, programs: int = 2, share: int = 3, edit: tuple[str, str] | None = None
    ) -> None:
        monkeypatch.setattr(gluon3x3, "conv3x3_gluon_kernel", Model(seed, edit))
        monkeypatch.setattr(gluon_plan, "taps", lambda: share)
        monkeypatch.setattr(gluon, "unavailable", lambda device: None)
        monkeypatch.setattr(gluon, "cores", lambda device: programs)

    return use


def check_forward(
    tile: tiles.Tile, size: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    """Without and with a pool against float64; the pool and its argmax as torch's of our map."""
    n, c_in, c_out, h, w = size
    x = maps((n, c_in, h, w), dtype, device, seed=1)
    weight, bias = weights(c_out, c_in, dtype, device, seed=1)
    with tiles.forced(tile):
        whole, _ = ops.conv3x3(x, weight, bias, True, False, False)
        y, codes = ops.conv3x3(x, weight, bias, True, True, True)
    theirs, _ = EAGER.conv3x3(x, weight, bias, True, False, False)
    oracle = reference.conv3x3(x.double(), weight.double(), bias.double(), relu=True)
    assert_close("y", whole, theirs, oracle, 9 * c_in)
    expected, indices = F.max_pool2d(whole, 2, return_indices=True)
    assert torch.equal(y, expected)
    assert codes is not None
    assert torch.equal(codes, packed.pack(indices, w))


@needs_gluon
@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
def test_every_entry_in_the_model(tile: tiles.Tile, model: Use) -> None:
    """More than one box on each side, part boxes, more than one tile a program."""
    model(seed=1)
    ni, th, tw = tile.box
    size = (min(ni + 1, 3), 24, tile.bc + 4, th + 3, tw + 3)
    check_forward(tile, size, torch.float16, CPU)


@needs_gluon
@pytest.mark.parametrize("share", [3, 1])
@pytest.mark.parametrize("split", SPLITS)
def test_dgrad_in_the_model(split: str, share: int, model: Use) -> None:
    """Mirrored taps, no bias; two channel blocks, one of them a part."""
    tile = SPLITS[split]
    model(seed=2, share=share)
    h, w = tile.box[1] - 1, tile.box[2] + 1
    weight, _ = weights(88, 72, torch.float16, CPU, seed=3)
    dz = maps((2, 88, h, w), torch.float16, CPU, seed=3)
    with tiles.forced(tile):
        dx, _ = fprop(aligned(dz.permute(0, 2, 3, 1)), weight, None, False, False, False, True)
    wanted = (False, False, (True, False, False))
    x = torch.empty(2, 72, h, w, dtype=torch.float16)
    theirs, _, _ = EAGER.conv3x3_backward(dz, x, weight, None, None, *wanted)
    double = (dz.double(), x.double(), weight.double())
    oracle, _, _ = EAGER.conv3x3_backward(*double, None, None, *wanted)
    assert_close("dx", dx.permute(0, 3, 1, 2), theirs, oracle, 9 * 88)


@needs_gluon
@pytest.mark.parametrize("split", SPLITS)
def test_any_order_of_events_gives_the_same_bits(split: str, model: Use) -> None:
    """Slow and fast partitions, loads, products and stores; also more programs than tiles."""
    tile = SPLITS[split]
    x = maps((1, 24, tile.box[1] + 1, 40), torch.float16, CPU, seed=4)
    weight, bias = weights(8, 24, torch.float16, CPU, seed=4)
    results = []
    for seed in range(6):
        model(seed, programs=(1, 2, 99)[seed % 3])
        with tiles.forced(tile):
            results.append(ops.conv3x3(x, weight, bias, True, False, False)[0])
    assert all(torch.equal(results[0], r) for r in results[1:])


# What is changed in the kernel's source, to what, and the split that shows it.
FAULTS = {
    "the loads do not wait for free weights": (
        "mbarrier.wait(w_empty.index(slot), phase_of(step, WBUFS) ^ 1)",
        "pass",
        "channels",
    ),
    "the loads wait for the wrong phase": (
        "phase_of(group, XBUFS) ^ 1",
        "phase_of(group, XBUFS)",
        "channels",
    ),
    "the products wait for the phase before": (
        "mbarrier.wait(w_full.index(slot), phase_of(step, WBUFS))",
        "mbarrier.wait(w_full.index(slot), phase_of(step, WBUFS) ^ 1)",
        "channels",
    ),
    "too few bytes are expected": (
        "ROWS * NI * TW * 64 * BYTES",
        "TH * NI * TW * 64 * BYTES",
        "channels",
    ),
    "too many bytes are expected": ("WS * 64 * 64 * BYTES", "3 * 64 * 64 * BYTES", "channels"),
    "weights are freed while they are read": (
        "warpgroup_mma_wait(1, deps",
        "warpgroup_mma_wait(2, deps",
        "channels",
    ),
    "pixels are freed at the first tap": ("pred=g > 0", "pred=True", "channels"),
    "the last weights of a tile are never freed": (
        "mbarrier.arrive(w_empty.index(stage_of(TAPS * last + TAPS - 1, WBUFS)))",
        "pass",
        "pixels",
    ),
    "one reader is enough": ('1 if SPLIT == "tiles" else 2', "1", "pixels"),
    "nobody waits for their turn": (
        "mbarrier.wait(turns.index(ME), phase_of(turn, 1) ^ (1 - ME))",
        "pass",
        "tiles",
    ),
    "each waits for the other": ("phase_of(turn, 1) ^ (1 - ME)", "phase_of(turn, 1)", "tiles"),
    "sums are used before they are made": (
        "warpgroup_mma_wait(0, deps",
        "warpgroup_mma_wait(9, deps",
        "tiles",
    ),
    "the buffer is filled while a store reads it": (
        "    tma.store_wait(0)\n    buffer",
        "    buffer",
        "channels",
    ),
    "a store without a fence": (
        "    fence_async_shared()\n    _to_global",
        "    _to_global",
        "pixels",
    ),
    "the program ends before its last store": (
        "    tma.store_wait(0)  # the last",
        "    pass  # the last",
        "tiles",
    ),
    "the taps of a column are mixed up": ("tap = 3 * (row + r) + column", "tap = r", "pixels"),
}


@needs_gluon
@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_finds_a_fault(fault: str, model: Use) -> None:
    old, new, split = FAULTS[fault]
    x = maps((1, 24, 2 * SPLITS[split].box[1], 40), torch.float16, CPU, seed=5)
    weight, bias = weights(8, 24, torch.float16, CPU, seed=5)
    oracle = reference.conv3x3(x.double(), weight.double(), bias.double(), relu=True)
    for seed in range(6):
        model(seed, programs=1, edit=(old, new))
        try:
            with tiles.forced(SPLITS[split]):
                y, _ = ops.conv3x3(x, weight, bias, True, False, False)
        except (HazardError, DeadlockError):
            return
        if not torch.allclose(y.double(), oracle, atol=1e-2):
            return
    pytest.fail("six orders of events showed nothing")


@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_compiled(tile: tiles.Tile, dtype: torch.dtype, device: torch.device) -> None:
    """On Hopper: several tiles a program, part boxes, channels that no block divides."""
    reason = gluon.unavailable(device)
    if reason is not None:
        pytest.skip(reason)
    ni, th, tw = tile.box
    check_forward(tile, (2 * ni + 1, 200, 2 * tile.bc + 12, 9 * th + 1, 9 * tw + 3), dtype, device)
    x = maps((ni + 1, 96, 5 * th - 1, 3 * tw + 1), dtype, device, seed=6)
    weight, _ = weights(136, 96, dtype, device, seed=6)
    grad = maps((x.shape[0], 136, *x.shape[2:]), dtype, device, seed=7)
    needs = (True, False, False)
    with tiles.forced(tile):
        dx, _, _ = ops.conv3x3_backward(grad, x, weight, None, None, needs)
        again, _, _ = ops.conv3x3_backward(grad, x, weight, None, None, needs)
    theirs, _, _ = EAGER.conv3x3_backward(grad, x, weight, None, None, False, False, needs)
    double = (grad.double(), x.double(), weight.double())
    oracle, _, _ = EAGER.conv3x3_backward(*double, None, None, False, False, needs)
    assert_close("dx", dx, theirs, oracle, 9 * 136)
    assert dx is not None
    assert again is not None
    assert torch.equal(dx, again)


def test_the_rule_never_takes_them() -> None:
    for pixels in ((32, 224, 224), (64, 14, 14), (1, 7, 7)):
        for c_out in (64, 512):
            assert tiles.choose("fprop", 90, 16, pixels, c_out, 64).form == "loop"


@pytest.mark.skipif(GPU, reason="about the interpreter, which a GPU does not need")
def test_forced_where_they_cannot_run_says_why() -> None:
    x = maps((1, 8, 4, 4), torch.float16, CPU, seed=8)
    weight, _ = weights(8, 8, torch.float16, CPU, seed=8)
    with (
        tiles.forced(ENTRIES[0]),
        pytest.raises(RuntimeError, match="interpreter does not run Gluon"),
    ):
        ops.conv3x3(x, weight, None, False, False, False)


def test_why_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    assert "only compute capability 9.0 has, not 10.0" in str(gluon.unavailable(cuda))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(gluon_plan, "absent", lambda: "no Gluon here")
    assert gluon.unavailable(cuda) == "no Gluon here"


def test_a_triton_without_gluon_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, package: str) -> None:
        raise ImportError("No module named 'triton.experimental.gluon'")

    monkeypatch.setattr(gluon_plan, "import_module", missing)
    reason = str(gluon_plan.absent.__wrapped__())
    assert "has no Gluon that fits: No module named 'triton.experimental.gluon'" in reason


@pytest.mark.parametrize(
    "change", [{"bc": 32}, {"bk": 32}, {"box": (1, 8, 16)}, {"box": (1, 64, 4)}, {"form": "loop"}]
)
def test_a_plan_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^tile: got fprop_sm90.* allowed are"):
        gluon_plan.plan(replace(ENTRIES[0], **change), False)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [3, 1])
@pytest.mark.parametrize("tile", ENTRIES, ids=lambda t: t.name)
def test_plans_fill_shared_memory(tile: tiles.Tile, share: int) -> None:
    for pool in (False, True):
        plan = gluon_plan.plan(tile, pool, share)
        c = plan.constants
        rows = tile.box[1] + share - 1
        x = rows * tile.box[0] * tile.box[2] * 128
        y = 4 * plan.y_box[0] * plan.y_box[1] * plan.y_box[2] * 64
        used = c["XBUFS"] * x + c["WBUFS"] * tile.bc * 128 + y
        assert used <= 232448 - 1024
        assert c["XBUFS"] >= 2
        assert c["WBUFS"] >= 2
        assert rows % c["RB"] == 0
