"""``explain(module)`` says what ``accelerate`` does; bad input is refused, and changes nothing."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

import vggfast

from .networks import TorchvisionVGG, conv, grouped


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines()[1:]}


def test_fused_layers_and_reasons() -> None:
    model = TorchvisionVGG(batch_norm=True).eval()
    text = vggfast.explain(model)
    assert "would run" in text.splitlines()[0]
    found = rows(text)
    assert "conv3x3 + batch norm + ReLU + pool (cpu, float32)" in found["features.0"]
    assert found["features.3"].endswith("in features.0")
    assert "linear + ReLU" in found["classifier.0"]
    assert "torch: no op for it" in found["avgpool"]
    fast = vggfast.accelerate(model, dtype=torch.bfloat16, backend="eager")
    assert "(eager, bfloat16)" in rows(vggfast.explain(fast))["features.0"]
    assert "would" not in vggfast.explain(fast)
    assert "batch statistics" in rows(vggfast.explain(fast.train()))["features.1"]
    fast.features[0].register_forward_hook(lambda *_: None)
    assert "alone: it has hooks" in rows(vggfast.explain(fast))["features.0"]


def test_why_layers_are_left_to_torch() -> None:
    found = rows(vggfast.explain(grouped()))
    for name, reason in {
        "2": "groups 2", "4": "padding (2, 2), dilation (2, 2)", "5": "stride (2, 2)",
        "6": "padding_mode reflect", "7": "kernel (5, 5)", "10": "ceil_mode True",
        "11": "padding (0, 0)", "16": "no op for it",
    }.items():  # fmt: skip
        assert reason in found[name], found[name]


def test_a_table_of_ops_stays_as_it_was() -> None:
    assert vggfast.explain("cpu").startswith("backends for cpu")
    assert vggfast.explain(device="cpu", backend="eager") == vggfast.backends.explain(
        "cpu", backend="eager"
    )


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(3, 3)), "has no convolution"),
        (lambda: nn.Sequential(conv(3, 4, stride=2), nn.Conv2d(4, 4, 1)), "1 with stride"),
    ],
)
def test_nothing_to_serve_is_told(model, reason: str) -> None:
    module = model()
    with pytest.warns(UserWarning, match=f"accelerate: Sequential .*{reason}"):
        assert vggfast.accelerate(module) is module
    assert type(module) is nn.Sequential


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("x",), "module: got str"),
        ((nn.ReLU(), "fast"), "backend: got 'fast', allowed are auto, eager"),
        ((nn.ReLU(), None), "backend: got None"),
        ((nn.ReLU(), "auto", torch.float64), "dtype: got torch.float64, allowed are None"),
    ],
)
def test_bad_input(arguments: tuple, words: str) -> None:
    names = dict(zip(("backend", "dtype"), arguments[1:], strict=False))
    with pytest.raises(vggfast.InputError, match=words):
        vggfast.accelerate(arguments[0], **names)


def test_what_cannot_be_copied_is_told() -> None:
    model = nn.Sequential(conv(3, 4))
    model.lock = threading.Lock()
    with pytest.raises(vggfast.InputError, match="module: got Sequential, which cannot be copied"):
        vggfast.accelerate(model)
    assert vggfast.accelerate(model, inplace=True) is model
    with pytest.raises(vggfast.InputError, match="module: got int"):
        vggfast.restore(3)
