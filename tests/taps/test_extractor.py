"""``Extractor``: values and gradients against hooks on plain torch modules in float64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import vggfast
from vggfast import ops
from vggfast.errors import InputError
from vggfast.taps import IMAGENET, Extractor, named_taps

pytestmark = pytest.mark.usefixtures("one_thread")


def narrow(*, batch_norm: bool = False, lrn: bool = False, inplace: bool = True) -> nn.Module:
    """Two blocks and three FC layers of torchvision's structure, a few channels wide."""

    def layer(c_in: int, c_out: int, size: int = 3) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(c_out)] if batch_norm else []
        return [nn.Conv2d(c_in, c_out, size, padding=size // 2), *norm, nn.ReLU(inplace)]

    model = nn.Module()
    model.features = nn.Sequential(
        *layer(3, 6), *([nn.LocalResponseNorm(5)] if lrn else []), *layer(6, 8),
        nn.MaxPool2d(2, 2), *layer(8, 7), *layer(7, 9, 1), *layer(9, 8), nn.MaxPool2d(2, 2),
    )  # fmt: skip
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(
        nn.Linear(32, 10), nn.ReLU(inplace), nn.Dropout(), nn.Linear(10, 9), nn.ReLU(inplace),
        nn.Dropout(), nn.Linear(9, 4),
    )  # fmt: skip
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
    return model.eval()


def plain_values(model: nn.Module, layers: list[str], x: Tensor) -> dict[str, Tensor]:
    """The taps' values in float64, seen by hooks; no ReLU in place, no module of vggfast."""
    model = copy.deepcopy(model).double()
    for m in model.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    seen: dict[str, Tensor] = {}
    modules, taps = dict(model.named_modules()), named_taps(model)
    for name in layers:
        modules[taps[name].path].register_forward_hook(
            lambda m, inputs, output, name=name: seen.__setitem__(name, output)
        )
    model.classifier(model.avgpool(model.features(x.double())).flatten(1))
    return {name: seen[name] for name in layers}


def close(got: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert list(got) == list(wanted)
    for name, y in wanted.items():
        assert got[name].shape == y.shape, name
        apart = (got[name].double() - y).norm() / y.norm()
        assert apart < tolerance, f"{name}: {apart:.1e}"


EVERY = {"plain": {}, "batch norm": {"batch_norm": True}, "lrn": {"lrn": True},
         "not in place": {"inplace": False}}  # fmt: skip


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("size", [(8, 8), (11, 10), (16, 13)])
def test_every_tap(options, size):
    model = narrow(**options)
    layers, x = list(named_taps(model)), torch.randn(2, 3, *size)
    wanted = plain_values(model, layers, x)
    close(Extractor(model, layers)(x), wanted)
    for name in layers:  # alone, nothing else ends a fusion
        close(Extractor(model, [name])(x), {name: wanted[name]})


@pytest.mark.parametrize("options", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trainable"])
@pytest.mark.parametrize(
    "layers",
    [["relu2_3", "conv1_2", "relu1_1"], ["pool2", "relu1_2"], ["fc7", "conv2_1", "pool1"]],
    ids="+".join,
)
def test_gradients(options, trained, layers):
    model = narrow(**options).double().requires_grad_(trained)
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64, requires_grad=True)
    factors = [torch.randn_like(y) for y in plain_values(model, layers, x).values()]

    def gradients(function, parameters):
        total = sum((y * f).sum() for y, f in zip(function(x).values(), factors, strict=True))
        return torch.autograd.grad(total, [x, *parameters], allow_unused=True)

    extract = Extractor(model, layers)
    held = list(extract.parameters()) if trained else []
    plain = copy.deepcopy(model)
    by_name = dict(plain.named_parameters())
    names = [name for name, _ in extract.named_parameters()] if trained else []
    for m in plain.modules():
        if isinstance(m, nn.ReLU):
            m.inplace = False
    seen: dict[str, Tensor] = {}
    modules = dict(plain.named_modules())
    for name, tap in named_taps(model).items():
        modules[tap.path].register_forward_hook(
            lambda m, inputs, output, name=name: seen.__setitem__(name, output)
        )

    def hooked(x):
        y = plain.avgpool(plain.features(x))
        plain.classifier(y.flatten(1))
        return {name: seen[name] for name in layers}

    got = gradients(extract, held)
    wanted = gradients(hooked, [by_name[name] for name in names])
    for name, a, b in zip(["x", *names], got, wanted, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


def test_parameters_are_the_models_and_only_those_that_are_run():
    model = vggfast.vgg("D", num_classes=3, crop=32).eval()
    extract = Extractor(model, ["relu2_1", "conv1_2"])
    held = dict(extract.named_parameters())
    assert list(held) == [f"features.{i}.{kind}" for i in (0, 2, 5) for kind in ("weight", "bias")]
    theirs = dict(model.named_parameters())
    assert all(p is theirs[name] for name, p in held.items())
    assert extract.classifier is None
    assert extract.features.backend == model.features.backend


def test_nothing_deeper_is_run():
    model = narrow()
    model.features[6] = nn.Conv2d(1, 1, 3)  # conv2_1 would refuse the map
    assert Extractor(model, ["pool1"])(torch.randn(1, 3, 8, 8))["pool1"].shape == (1, 8, 4, 4)


def count_calls(monkeypatch, *names: str) -> list[str]:
    calls: list[str] = []
    for name in names:
        real = getattr(ops, name)

        def called(*args, _name=name, _real=real, **options):
            fused = [key for key in ("relu", "pool") if options.get(key)]
            calls.append("+".join([_name, *fused]))
            return _real(*args, **options)

        monkeypatch.setattr(ops, name, called)
    return calls


def test_fused_between_taps(monkeypatch):
    calls = count_calls(monkeypatch, "conv3x3", "conv1x1", "maxpool2x2", "linear")
    model = narrow()
    with torch.no_grad():
        Extractor(model, ["relu1_2", "conv2_3", "fc6"], backend="cpu")(torch.randn(1, 3, 8, 8))
    assert calls == [
        "conv3x3+relu", "conv3x3+relu", "maxpool2x2", "conv3x3+relu", "conv1x1+relu", "conv3x3",
        "maxpool2x2", "linear",
    ]  # fmt: skip
    calls.clear()
    with torch.no_grad():
        Extractor(model, ["pool2"])(torch.randn(1, 3, 8, 8))
    assert calls == [
        "conv3x3+relu", "conv3x3+relu+pool", "conv3x3+relu", "conv1x1+relu", "conv3x3+relu+pool"
    ]  # fmt: skip


def test_frozen_layers_keep_no_input_and_compute_no_gradient_of_weights(monkeypatch):
    model = narrow().requires_grad_(False)
    kept: list[Tensor] = []
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = Extractor(model, ["conv1_2"])(x)["conv1_2"]
    weights = {p.data_ptr() for p in model.parameters()}
    maps = [t for t in kept if t.dim() == 4 and t.numel() and t.data_ptr() not in weights]
    assert [tuple(t.shape) for t in maps] == [(1, 6, 8, 8)]  # relu1_1, for its mask
    y.sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in model.parameters())


def test_a_tap_is_not_overwritten_whatever_follows():
    """A watched ReLU in place, one after modules that hand on what they get, other kinds."""
    for between in ([], [nn.Identity()], [nn.Dropout()]):
        for last in (nn.ReLU(inplace=True), nn.ReLU6(inplace=True)):
            last.register_forward_hook(lambda m, inputs, output: None)
            model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *between, last,
                                  nn.Conv2d(4, 4, 3, padding=1)).eval()  # fmt: skip
            x = torch.randn(1, 3, 6, 6)
            got = Extractor(model, ["conv1_1", "conv1_2"])(x)
            conv = model[0](x)
            torch.testing.assert_close(got["conv1_1"], conv)
            torch.testing.assert_close(got["conv1_2"], model[-1](last(conv.clone())))


def test_colours_from_0_to_1():
    model = vggfast.vgg("A", num_classes=3, crop=32).eval()
    x = torch.rand(1, 3, 16, 16, requires_grad=True)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) / 255 for v in IMAGENET)
    got = Extractor(model, ["relu1_1"], normalize=IMAGENET)(x)["relu1_1"]
    wanted = Extractor(model, ["relu1_1"])((x.detach() - mean) / std)["relu1_1"]
    torch.testing.assert_close(got, wanted)
    got.sum().backward()
    assert x.grad.abs().sum() > 0


def test_batch_norm_in_training_uses_the_batch():
    model = narrow(batch_norm=True).train()
    plain = copy.deepcopy(model)
    x = torch.randn(3, 3, 8, 8)
    got = Extractor(model, ["bn1_1", "relu1_1"])(x)
    wanted = plain.features[1](plain.features[0](x))
    torch.testing.assert_close(got["bn1_1"], wanted)
    torch.testing.assert_close(got["relu1_1"], wanted.relu())


def test_copies_and_pickles():
    extract = Extractor(narrow(), ["relu1_2", "fc6"])
    x = torch.randn(1, 3, 8, 8)
    for other in (copy.deepcopy(extract), pickle.loads(pickle.dumps(extract))):
        assert other.features[0].weight is not extract.features[0].weight
        close(other(x), {name: y.double() for name, y in extract(x).items()})


def test_any_strides_and_no_images():
    extract = Extractor(narrow(), ["pool1", "conv1_1"])
    x = torch.randn(2, 3, 9, 8)
    wanted = {name: y.double() for name, y in extract(x).items()}
    close(extract(x.to(memory_format=torch.channels_last)), wanted)
    close(extract(x.numpy()), wanted)
    assert extract(x[:0])["pool1"].shape == (0, 8, 4, 4)


@pytest.mark.parametrize(
    ("layers", "shape", "words"),
    [
        (["relu1_1"], (3, 8, 8), ["x:", "(3, 8, 8)", "(N, 3, H, W)", "relu1_1"]),
        (["relu1_1"], (1, 4, 8, 8), ["x:", "(1, 4, 8, 8)", "(N, 3, H, W)"]),
        (["relu2_1", "pool2"], (1, 3, 8, 3), ["x:", "H, W >= 4", "pool2"]),
        (["fc6"], (1, 3, 12, 8), ["x:", "map of 3 x 2", "fc6", "4 pixels"]),
    ],
)
def test_bad_images(layers, shape, words):
    model = narrow()
    del model.avgpool
    with pytest.raises(InputError) as caught:
        Extractor(model, layers)(torch.randn(shape))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("moments", "words"),
    [(((1, 2), (1, 1, 1)), ["mean:", "(1, 2)"]), (((1, 2, 3), (1, 0, 1)), ["std:", "above 0"]),
     (((1, 2, 3), (1, float("nan"), 1)), ["std:", "finite"])],
)  # fmt: skip
def test_bad_moments(moments, words):
    with pytest.raises(InputError) as caught:
        Extractor(narrow(), ["relu1_1"], normalize=moments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
