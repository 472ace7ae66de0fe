"""The numerics stage: right kernels pass, and every planted mistake is named before any timing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harness import cases, endtoend, layers, networks, numerics, options
from harness.cli import main
from torch import Tensor

from vggfast import configs, reference
from vggfast.backends.eager import EagerBackend
from vggfast.configs import Layer
from vggfast.reference import decisions

PLAIN = Layer("conv2_1", "conv3x3", 8, 12, 9, 9, relu=True)
POOLED = Layer("conv2_2", "conv3x3", 12, 20, 9, 9, relu=True, pool=True)
SABOTAGE = dict[str, tuple[str, Callable[..., object], str]]


def parse(tmp_path: Path, *argv: str) -> options.Options:
    base = ["--net", "A", "--size", "32", "--quick", "--device", "cpu", "--backend", "eager"]
    return options.parse([*base, "--out", str(tmp_path / "out"), *argv])


def forward(change: Callable[[Tensor], object]) -> Callable[..., object]:
    """A conv3x3 whose output is changed in place."""

    def conv3x3(self, x, w, b, relu, pool, save_argmax):  # type: ignore[no-untyped-def]
        y, argmax = RIGHT(self, x, w, b, relu, pool, save_argmax)
        change(y)
        return y, argmax

    return conv3x3


def backward(change: Callable[[Tensor, Tensor, Tensor], object]) -> Callable[..., object]:
    """A conv3x3_backward whose gradients are changed in place."""

    def conv3x3_backward(self, grad, x, w, y, argmax, relu, pool, needs):  # type: ignore[no-untyped-def]
        grads = RIGHT_BACKWARD(self, grad, x, w, y, argmax, relu, pool, needs)
        change(*grads)
        return grads

    return conv3x3_backward


def without_last_bias(self, x, w, b, relu, pool, save_argmax):  # type: ignore[no-untyped-def]
    b = b.clone()
    b[-1] = 0
    return RIGHT(self, x, w, b, relu, pool, save_argmax)


def leaves_last_row(self, x, w, b, relu, pool, save_argmax):  # type: ignore[no-untyped-def]
    right, argmax = RIGHT(self, x, w, b, relu, pool, save_argmax)
    y = torch.empty_like(right)
    y[:, :, :-1] = right[:, :, :-1]
    return y, argmax


RIGHT, RIGHT_BACKWARD = EagerBackend.conv3x3, EagerBackend.conv3x3_backward
SABOTAGES: SABOTAGE = {
    "a bias not added": ("conv3x3", without_last_bias, "y"),
    "one NaN": ("conv3x3", forward(lambda y: y[-1, -1, -1, -1].fill_(float("nan"))), "y"),
    "an element not written": ("conv3x3", leaves_last_row, "y"),
    "an error of 1e-5": ("conv3x3", forward(lambda y: y.mul_(1 + 1e-5)), "y"),
    "dx wrong at the border": (
        "conv3x3_backward", backward(lambda dx, dw, db: dx[:, :, 0].zero_()), "dx",
    ),
    "one tap of dw wrong": (
        "conv3x3_backward", backward(lambda dx, dw, db: dw[:, :, 2, 2].mul_(1.001)), "dw",
    ),
    "db missing": ("conv3x3_backward", backward(lambda dx, dw, db: db.zero_()), "db"),
}  # fmt: skip


@pytest.mark.parametrize("what", SABOTAGES)
def test_a_mistake_is_named_and_nothing_is_timed(
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    method, wrong, quantity = SABOTAGES[what]
    timed: list[str] = []
    monkeypatch.setattr(EagerBackend, method, wrong)
    monkeypatch.setattr(options.Options, "layers", lambda self: [PLAIN, POOLED])
    monkeypatch.setattr(endtoend, "check_network", lambda o: [])
    monkeypatch.setattr(layers, "time_layer", lambda *a: timed.append("layer"))
    monkeypatch.setattr(networks, "infer", lambda *a: timed.append("inference"))
    out = tmp_path / "out"
    argv = ["--net", "A", "--size", "32", "--device", "cpu", "--backend", "eager", "--quick"]
    assert main([*argv, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert f"numerics failed: conv2_1, {quantity}: error" in captured.err
    assert "nothing was timed" in captured.err
    assert "FAIL" in captured.out
    assert timed == []
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("layer", [
    PLAIN, POOLED,
    Layer("conv3_3", "conv1x1", 8, 12, 8, 8, relu=True, pool=True),
    Layer("conv3_2", "conv1x1", 8, 12, 8, 8, relu=True),
    Layer("lrn1", "lrn", 12, 12, 8, 8),
    Layer("pool1", "maxpool2x2", 12, 12, 8, 8, pool=True),
    Layer("fc6", "linear", 40, 600, 1, 1, relu=True),
], ids=lambda layer: layer.name + "_" + layer.op)  # fmt: skip
def test_right_kernels_pass(layer: Layer, dtype: str, tmp_path: Path) -> None:
    o = parse(tmp_path, "--dtype", dtype)
    (g,) = cases.group([layer])
    checks = numerics.check_small(g, o)
    checks += numerics.check_real(g, o, checks)
    assert [c for c in checks if not c.passed] == []
    expected = {"y", "dx"} if layer.op in ("lrn", "maxpool2x2") else {"y", "dx", "dw", "db"}
    assert {c.quantity for c in checks} == expected


def test_the_network_passes_and_a_wrong_bias_in_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endtoend, "DRAWS", 3)
    o = parse(tmp_path)
    checks = endtoend.check_network(o)
    assert [c for c in checks if not c.passed] == []
    assert [c.quantity for c in checks] == [
        "logits", "d features.0.weight", "d features.0.bias", "d features.18.weight",
        "d features.18.bias", "d classifier.6.weight", "d classifier.6.bias",
    ]  # fmt: skip
    monkeypatch.setattr(EagerBackend, "conv3x3", without_last_bias)
    failed = [c for c in endtoend.check_network(o) if not c.passed]
    assert "logits" in [c.quantity for c in failed]


def test_nan_never_passes() -> None:
    for bad in (float("nan"), float("inf")):
        error = reference.errors(torch.tensor([1.0, bad]), torch.ones(2))
        check = numerics.Check("conv", "case", "y", error, baseline=0.0, bound=1e9)
        assert not check.passed
    assert numerics.finite(float("inf")) == 0.0


def test_poison_fills_new_memory_and_is_taken_back() -> None:
    before = torch.get_deterministic_debug_mode()
    with numerics.poisoned():
        assert torch.get_deterministic_debug_mode() == 1  # warns, and so fills
        assert torch.empty(3).isnan().all()
        assert (torch.empty(3, dtype=torch.uint8) == 255).all()
    assert torch.get_deterministic_debug_mode() == before


def test_rounding_term_grows_with_the_sum_and_the_dtype() -> None:
    small, large = (numerics.rounding_term(torch.float32, k) for k in (9, 9 * 512))
    assert small < large < 1.1e-6
    assert numerics.rounding_term(torch.bfloat16, 9) == pytest.approx(2**-9, rel=0.01)


@pytest.mark.parametrize("net", configs.NETS)
def test_equal_layers_are_run_once_and_all_named(net: str) -> None:
    found = configs.layers(net)
    groups = cases.group(found)
    assert sorted(n for g in groups for n in g.names) == sorted(layer.name for layer in found)
    assert sum(g.layer.flop * g.count for g in groups) == sum(layer.flop for layer in found)
    assert len({(g.layer.c_in, g.layer.c_out, g.layer.h, g.layer.op, g.layer.pool)
                for g in groups}) == len(groups)  # fmt: skip


def test_gradients_are_asked_for_where_the_decision_is_clear() -> None:
    z = torch.tensor([[[[1.0, 0.0], [0.5, -1.0]], [[-1.0, -2.0], [-1e-9, -3.0]]]])
    relu = decisions.distance(z, pool=False)
    assert (relu[0, 0, 0, 1], relu[0, 0, 0, 0] > 0.1) == (0, True)
    pool = decisions.distance(z, pool=True)
    assert pool.shape == (1, 2, 1, 1)
    assert pool[0, 0] > 0.1  # 1 against 0.5
    assert pool[0, 1] < 1e-8  # all below zero, one only just
    g = reference.clear_gradient(torch.ones(1, 2, 1, 1), z, pool=True)
    assert g.flatten().tolist() == [1, 0]
    tied = torch.tensor([[[[2.0, 2.0], [0.0, 1.0]]]])
    assert decisions.distance(tied, pool=True).item() == 0


@pytest.mark.parametrize("size", [1, 2, 7, 14, 28, 224])
def test_small_maps_keep_room_for_a_pool(size: int) -> None:
    layer = Layer("conv", "conv3x3", 3, 4, size, size, pool=size > 1)
    for _, h, w in numerics.small_maps(layer, quick=False):
        assert min(h, w) >= min(size, 2)
        assert max(h, w) <= size
