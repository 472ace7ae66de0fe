"""``store_weights``: a network whose FC weights are bfloat16, in float32 inference."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import vggfast
from vggfast import InputError, reference
from vggfast.nn import FusedSequential

WEIGHTS = tuple(f"classifier.{i}.weight" for i in (0, 3, 6))
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def _plain() -> vggfast.VGG:
    torch.manual_seed(1)
    model = vggfast.vgg("A", num_classes=10, crop=32).eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p, 0.0, 0.05)
    return model


@pytest.fixture
def plain(_plain: vggfast.VGG) -> vggfast.VGG:
    return copy.deepcopy(_plain)


@pytest.fixture
def stored(_plain: vggfast.VGG) -> vggfast.VGG:
    model = copy.deepcopy(_plain)
    assert vggfast.store_weights(model, "bf16") is model
    return model


def rounded(model: vggfast.VGG) -> vggfast.VGG:
    """The same network with these weights rounded and stored in float32."""
    model = copy.deepcopy(model)
    for name in WEIGHTS:
        p = model.get_parameter(name)
        p.data = p.data.bfloat16().float()
    return model


def test_the_logits_are_those_of_the_rounded_weights(plain, stored):
    with torch.inference_mode():
        y = stored(X)
        assert torch.equal(y, rounded(plain)(X))
    assert y.dtype is torch.float32
    state = {name: p.double() for name, p in stored.state_dict().items()}
    exact = reference.network("A", state, X.double(), crop=32)
    assert reference.errors(y, exact).rel < 1e-5
    moved = reference.errors(y, plain(X).detach().double()).rel
    assert 1e-4 < moved < 5e-3  # each weight by up to 2^-8


def test_what_is_stored_and_what_is_said(plain, stored):
    dtypes = {name: p.dtype for name, p in stored.named_parameters()}
    assert {n for n, d in dtypes.items() if d is torch.bfloat16} == set(WEIGHTS)
    assert set(dtypes.values()) == {torch.bfloat16, torch.float32}
    assert list(dtypes) == [name for name, _ in plain.named_parameters()]
    assert repr(stored).count("weights=bfloat16") == 3
    assert "bfloat16" not in repr(plain)
    assert vggfast.store_weights(stored, "bf16") is stored  # again changes nothing


def test_training_is_an_error(stored):
    with pytest.raises(InputError, match=r"^w: got bfloat16 .*backward pass, allowed is float32"):
        stored(X).sum().backward()
    stored.train()
    with pytest.raises(InputError, match=r"^model: got training mode .*allowed is eval mode"):
        stored(X)
    with pytest.raises(InputError, match=r"^model: got training mode"):
        stored.classifier[0](torch.randn(1, 512))
    with torch.no_grad():  # such as for statistics; dropout is on
        assert stored(X).shape == (2, 10)


def test_widened_again_it_trains(plain, stored):
    want = stored(X)
    assert vggfast.store_weights(stored, "fp32") is stored
    assert torch.equal(stored(X), want)
    assert "bfloat16" not in repr(stored)
    stored.train()(X).sum().backward()
    assert all(p.grad is not None for p in stored.parameters())
    vggfast.store_weights(plain, "fp32")  # nothing to do
    assert all(p.requires_grad for p in plain.parameters())


def test_state_dicts_load_either_way(plain, stored):
    file = io.BytesIO()
    torch.save(stored.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert state["classifier.0.weight"].dtype is torch.bfloat16
    with torch.inference_mode():
        want = stored(X)
        other = copy.deepcopy(plain)
        other.load_state_dict(state)  # widened
        assert torch.equal(other(X), want)
        for p in stored.parameters():
            p.zero_()
        stored.load_state_dict(plain.state_dict())  # rounded
        assert torch.equal(stored(X), want)
        assert torch.equal(copy.deepcopy(stored)(X), want)


def test_a_plain_layer_of_two_dtypes_is_torchs_error(plain, stored):
    """Weights that got there by another way than being asked for."""
    plain.load_state_dict(stored.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="dtype"):
        plain(X)


def test_casts_cast_these_weights_too(stored):
    with torch.inference_mode():
        want = stored(X)
        assert torch.equal(stored.float()(X), want)
        assert "weights=float32" in repr(stored)
        assert torch.equal(vggfast.store_weights(stored, "bf16")(X), want)
        assert stored.classifier[0].weight.dtype is torch.bfloat16
        low = stored.bfloat16()(X.bfloat16())
        assert low.dtype is torch.bfloat16
    with pytest.raises(InputError, match=r"^model: got torch.bfloat16 in classifier.0.bias"):
        vggfast.store_weights(stored, "fp32")


def test_a_hooked_layer_sees_its_values_and_serves_any_shape(stored):
    seen = []
    with torch.inference_mode():
        want = stored(X)
        handle = stored.classifier[3].register_forward_hook(lambda m, x, y: seen.append(y.clone()))
        torch.testing.assert_close(stored(X), want)
        handle.remove()
        assert seen[0].shape == (2, 4096)
        y = stored.classifier[0](torch.randn(2, 3, 512))
    assert y.shape == (2, 3, 4096)


def test_a_hook_from_before_stays(plain):
    seen = []
    plain.classifier[0].register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    vggfast.store_weights(plain, "bf16")(X)
    assert seen == [torch.float32]


def test_autocast_and_compile(stored):
    with torch.no_grad():
        want = stored(X)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert stored(X).dtype is torch.bfloat16
        compiled = torch.compile(stored.classifier, fullgraph=True, backend="aot_eager")
        x = stored.features(X).flatten(1)
        assert torch.equal(compiled(x), want)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        (lambda m: m, "int8", ["weights:", "'int8'", "fp32, bf16"]),
        (lambda m: m, torch.bfloat16, ["weights:", "torch.bfloat16", "fp32, bf16"]),
        (lambda m: "vgg", "bf16", ["model:", "str", "torch.nn.Module"]),
        (lambda m: m.features, "bf16", ["model:", "FusedSequential without FC layers"]),
        (lambda m: nn.Sequential(nn.Linear(2, 2)), "bf16", ["model:", "without FC layers"]),
        (lambda m: m.train(), "bf16", ["model:", "training mode", "eval mode"]),
        (lambda m: m.half(), "bf16", ["model:", "torch.float16 in classifier.0.weight", "float32"]),
        (lambda m: m.bfloat16(), "fp32", ["model:", "bfloat16 in classifier.0.weight", "float32"]),
        (lambda m: m.to("meta"), "bf16", ["model:", "classifier.0.weight on meta", "cpu"]),
    ],
)
def test_bad_arguments(plain, model, weights, words):
    with pytest.raises(InputError) as caught:
        vggfast.store_weights(model(plain), weights)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)
    assert "Bf16Linear" not in repr(plain)


def test_a_fused_sequential_of_ones_own():
    model = FusedSequential(nn.Linear(7, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)).eval()
    x = torch.randn(4, 7)
    want = model(x)
    got = vggfast.store_weights(model, "bf16")(x)
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    assert "0): Bf16Linear(in_features=7, out_features=5, bias=False" in repr(model)


def test_explain_says_how_they_run():
    text = vggfast.explain("cpu", weights="bf16")
    assert "FC weights stored in bf16" in text.splitlines()[0]
    assert "kernel (weights bf16; batch <= 32, else widened for torch's)" in text
    assert "bf16" not in vggfast.explain("cpu")
    eager = vggfast.explain("cpu", backend="eager", weights="bf16")
    assert "torch's library kernel (weights bf16, widened each time)" in eager
    with pytest.raises(InputError, match=r"^weights: got 'int8', allowed are fp32, bf16"):
        vggfast.explain("cpu", weights="int8")
    with pytest.raises(InputError, match=r"^dtype: got torch.bfloat16 with weights='bf16'"):
        vggfast.explain("cpu", torch.bfloat16, weights="bf16")
