"""What must stay as it was: hooks, layouts, shared and odd layers, the tree and its parameters."""

from __future__ import annotations

import copy
import io
import pickle
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, parametrizations, parametrize

import vggfast
from vggfast import ops
from vggfast.nn import ServedConv2d, ServedSequential

from .networks import SSD, TorchvisionVGG, conv

pytestmark = pytest.mark.usefixtures("one_thread")
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def pair() -> nn.Sequential:
    return nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), nn.MaxPool2d(2), conv(4, 4), nn.ReLU())


def calls(model: nn.Module, x: Tensor = X) -> list[dict[str, bool]]:
    """What conv3x3 was asked to fuse, call by call."""
    real, found = ops.conv3x3, []

    def conv3x3(*args, relu=False, pool=False, **rest):
        found.append({"relu": relu, "pool": pool})
        return real(*args, relu=relu, pool=pool, **rest)

    with patch.object(ops, "conv3x3", conv3x3), torch.no_grad():
        model(x)
    return found


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_runs_are_fused() -> None:
    fused = {"relu": True, "pool": True}
    assert calls(vggfast.accelerate(pair())) == [fused, {"relu": True, "pool": False}]


def test_convolutions_outside_of_a_sequential_are_served_alone() -> None:
    model = SSD().eval()
    alone = {"relu": False, "pool": False}
    assert calls(vggfast.accelerate(model), torch.randn(1, 3, 32, 32)) == [alone] * 6


def test_a_copy_shares_all_tensors_and_leaves_the_original() -> None:
    model = TorchvisionVGG(batch_norm=True).train()
    kinds = [type(m) for m in model.modules()]
    fast = vggfast.accelerate(model)
    assert [type(m) for m in model.modules()] == kinds
    for (name, a), (same, b) in zip(
        [*model.named_parameters(), *model.named_buffers()],
        [*fast.named_parameters(), *fast.named_buffers()], strict=True,
    ):  # fmt: skip
        assert name == same
        assert a is b
    fast(torch.randn(2, 3, 32, 32))
    assert model.features[1].num_batches_tracked == 1


def test_restore_gives_the_classes_back() -> None:
    model = TorchvisionVGG()
    before = [(name, m, type(m), sorted(vars(m))) for name, m in model.named_modules()]
    vggfast.accelerate(model, backend="eager", dtype=torch.bfloat16, inplace=True)
    assert isinstance(model.features, ServedSequential)
    assert vggfast.restore(model) is model
    assert [(name, m, type(m), sorted(vars(m))) for name, m in model.named_modules()] == before


def test_twice_is_harmless() -> None:
    once = vggfast.accelerate(pair())
    twice = vggfast.accelerate(once, backend="eager")
    assert [type(m) for m in twice] == [type(m) for m in once]
    assert twice.backend == "eager"
    close(twice(X), once(X))


def test_a_network_of_vggfast_goes_on_as_it_was() -> None:
    model = vggfast.vgg("A", num_classes=2, crop=32).features.eval()
    fast = vggfast.accelerate(model)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(fast(x), model(x))


@pytest.mark.parametrize("at", range(5))
def test_hooks_see_the_values_of_their_layer(at: int) -> None:
    model = pair()
    fast = vggfast.accelerate(model)
    seen: list[list[Tensor]] = [[], []]
    for m, out in zip((model, fast), seen, strict=True):
        # A view of the map, as gram matrices take: only contiguous maps have it.
        m[at].register_forward_hook(lambda _, args, y, out=out: out.extend(
            (args[0].view(len(y), -1).clone(), y.view(len(y), -1).clone())))  # fmt: skip
        m(X)
    for a, b in zip(*seen, strict=True):
        close(b, a)
    assert len(calls(fast)) == 2


def test_backward_hooks_see_the_gradients() -> None:
    model = pair()
    fast = vggfast.accelerate(model)
    seen: list[list[Tensor]] = [[], []]
    for m, out in zip((model, fast), seen, strict=True):
        m[3].register_full_backward_hook(lambda _, grads, out_grads, out=out: out.append(grads[0]))
        m(X).sum().backward()
    close(seen[1][0], seen[0][0])


def test_iterated_and_sliced_children_are_served() -> None:
    fast = vggfast.accelerate(pair(), dtype=torch.bfloat16)
    assert len(calls(nn.Sequential(*fast.children()))) == 2
    part = fast[:3]
    assert isinstance(part, ServedSequential)
    assert part.compute_dtype is torch.bfloat16


def test_one_layer_used_twice() -> None:
    shared = conv(4, 4)
    model = nn.Sequential(conv(3, 4), nn.ReLU(), shared, nn.ReLU(), shared)
    fast = vggfast.accelerate(model)
    assert fast[2] is fast[4]
    close(fast(X), model(X))
    wanted = torch.autograd.grad(model(X).square().sum(), shared.weight)[0]
    close(torch.autograd.grad(fast(X).square().sum(), shared.weight)[0], wanted)


class Lora(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


def replaced(c: nn.Conv2d) -> nn.Conv2d:
    c.forward = lambda x: nn.Conv2d.forward(c, x) + 1  # type: ignore[method-assign]
    return c


def trained_norm(c: nn.Conv2d) -> nn.Conv2d:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(c)


ODD = {
    "subclass": lambda: Lora(4, 4, 3, padding=1),
    "parametrized": lambda: parametrizations.weight_norm(conv(4, 4)),
    "spectral_norm": lambda: parametrizations.spectral_norm(conv(4, 4)).eval(),
    "weight_norm": lambda: trained_norm(conv(4, 4)),
    "own forward": lambda: replaced(conv(4, 4)),
    "fused": lambda: fusion.fuse_conv_bn_eval(conv(4, 4).eval(), nn.BatchNorm2d(4).eval()),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_layers_run_their_own_forward(kind: str) -> None:
    odd = ODD[kind]()
    for model in (nn.Sequential(conv(3, 4), nn.ReLU(), odd, nn.ReLU()),
                  nn.Sequential(nn.ModuleDict({"a": conv(3, 4)})["a"], odd)):  # fmt: skip
        wanted = model(X)
        fast = vggfast.accelerate(model, inplace=True)
        assert isinstance(odd, ServedConv2d) == (kind == "fused")
        close(fast(X), wanted)


class Odd(Tensor):
    """As the weights of quantization libraries are, in layers of torch's own classes."""


def test_weights_of_another_class_are_left_alone() -> None:
    odd = conv(4, 4)
    odd.weight = nn.Parameter(odd.weight.detach().as_subclass(Odd))
    model = nn.Sequential(conv(3, 4), nn.ReLU(), odd)
    fast = vggfast.accelerate(model)
    assert [type(fast), type(fast[0]), type(fast[2])] == [nn.Sequential, ServedConv2d, nn.Conv2d]
    assert vggfast.explain(fast).splitlines()[3].endswith("torch: its weight is a Odd")
    close(fast(X), model(X))


def test_geometry_changed_afterwards_counts() -> None:
    """Tileable textures are made so: every convolution's padding mode is set to circular."""
    model = pair()
    fast = vggfast.accelerate(model)
    for m in (model, fast):
        for c in m.modules():
            if isinstance(c, nn.Conv2d):
                c.padding_mode = "circular"
                c._reversed_padding_repeated_twice = [1, 1, 1, 1]
    close(fast(X), model(X))
    alone = vggfast.accelerate(nn.ModuleList([conv(3, 4)]))[0]
    alone.dilation, alone.padding = (2, 2), (2, 2)
    close(alone(X), nn.functional.conv2d(X, alone.weight, alone.bias, padding=2, dilation=2))


def test_parametrized_after() -> None:
    fast = vggfast.accelerate(pair())
    before = fast(X)
    parametrizations.weight_norm(fast[3])
    close(fast(X), before)
    with pytest.raises(vggfast.InputError, match="module: got 3 of class"):
        vggfast.restore(fast)
    parametrize.remove_parametrizations(fast[3], "weight")
    assert type(vggfast.restore(fast)[3]) is nn.Conv2d


def test_frozen_layers_get_no_gradient() -> None:
    model = pair()
    model[0].requires_grad_(False)
    fast = vggfast.accelerate(model, inplace=True)
    fast(X).sum().backward()
    assert model[0].weight.grad is None
    assert model[3].weight.grad is not None


def test_unbatched_and_empty_input() -> None:
    model = pair()
    fast = vggfast.accelerate(model)
    close(fast(X[0]), model(X[0]))
    assert fast(X[:0]).shape == (0, 4, 8, 8)


def test_copies_and_pickles() -> None:
    fast = vggfast.accelerate(pair(), backend="eager")
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast)),
                  torch.load(file, weights_only=False)):  # fmt: skip
        assert isinstance(other, ServedSequential)
        assert other.backend == "eager"
        assert torch.equal(other(X), fast(X))
        assert other[0].weight is not fast[0].weight
    pair().load_state_dict(fast.state_dict())


def test_dtype_lowers_the_fused_layers_alone() -> None:
    seen: list[torch.dtype] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.dtype)
            return x

    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), Watch(), conv(4, 4), nn.ReLU())
    fast = vggfast.accelerate(model, dtype=torch.bfloat16)
    y = fast(X)
    assert seen == [torch.float32]
    assert y.dtype is torch.float32
    assert fast[0].weight.dtype is torch.float32
    torch.testing.assert_close(y, model(X), rtol=0.05, atol=0.05)
    assert not torch.allclose(y, model(X), rtol=1e-5, atol=1e-6)
    y.sum().backward()
    assert fast[0].weight.grad.dtype is torch.float32
    assert fast.double()(X.double()).dtype is torch.float64
