"""The networks: names, sizes and results."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import vggfast
from tests.tolerance import assert_close
from vggfast import reference
from vggfast.configs import NETS, conv_layers
from vggfast.errors import InputError

# Table 2 of the paper in millions, and the exact counts (torchvision's for A, B, D, E).
PARAMETERS = {
    "A": (133, 132_863_336),
    "A-LRN": (133, 132_863_336),
    "B": (133, 133_047_848),
    "C": (134, 133_638_952),
    "D": (138, 138_357_544),
    "E": (144, 143_667_240),
}


@pytest.mark.parametrize("net", NETS)
def test_parameter_counts(net):
    with torch.device("meta"):
        count = sum(p.numel() for p in vggfast.vgg(net).parameters())
    millions, exact = PARAMETERS[net]
    assert count == exact
    assert round(count / 1e6) == millions


def _torchvision(config, batch_norm):
    """torchvision's make_layers and VGG, as its documentation describes them: names and order."""
    layers: list[nn.Module] = []
    c_in = 3
    for v in config:
        if v == "M":
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers.append(nn.Conv2d(c_in, v, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(v))
        layers.append(nn.ReLU(inplace=True))
        c_in = v
    classifier = nn.Sequential(
        nn.Linear(512 * 49, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096),
        nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 1000),
    )  # fmt: skip
    net = nn.Module()
    net.features, net.classifier = nn.Sequential(*layers), classifier
    return net


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("vgg11", [64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]),
        ("vgg13", [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"]),
        ("vgg16", [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M",
                   512, 512, 512, "M"]),
        ("vgg19", [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4, "M"]),
    ],
)  # fmt: skip
def test_torchvisions_state_dict_fits(name, config, batch_norm):
    with torch.device("meta"):
        theirs = _torchvision(config, batch_norm).state_dict()
        ours = getattr(vggfast, name + "_bn" * batch_norm)()
    assert list(ours.state_dict()) == list(theirs)
    ours.load_state_dict(theirs, strict=True, assign=True)


def _logits_and_gradients(function, names, weights, x, grad, dtype):
    leaves = [w.detach().to(dtype).requires_grad_() for w in weights]
    logits = function(dict(zip(names, leaves, strict=True)), x.to(dtype))
    return logits, torch.autograd.grad(logits, leaves, grad.to(dtype))


@pytest.mark.parametrize("net", ["A-LRN", "C", "E"])
def test_logits_and_gradients(net):
    """The wiring in float64, where only a mistake is visible; then the kernels in float32, by plain
    sums and by the algorithms of their choice, which round more.

    In float32 a value next to a ReLU's or a pool's edge may fall on the other side, which changes
    a gradient by more than rounding does, in torch's own kernels too. So the gradients of the whole
    net are held to their direction here, and those of each layer to rounding in tests/ops.
    """
    x, grad = torch.randn(1, 3, 41, 38), torch.randn(1, 10)
    model = vggfast.vgg(net, num_classes=10, crop=32).eval()
    names, weights = zip(*model.named_parameters(), strict=True)

    def ours(state, x):
        return torch.func.functional_call(model, state, x)

    def plain(state, x):
        return reference.network(net, state, x, crop=32)

    def run(function, dtype):
        return _logits_and_gradients(function, names, weights, x, grad, dtype)

    exact, wide, narrow = (
        run(plain, torch.float64),
        run(ours, torch.float64),
        run(ours, torch.float32),
    )
    with vggfast.exact():
        sums, _ = run(ours, torch.float32)
    torch.testing.assert_close(wide[0], exact[0], rtol=1e-10, atol=1e-14)
    assert_close(f"logits of {net}", sums, exact[0], run(plain, torch.float32)[0])
    assert reference.errors(narrow[0], exact[0]).rel < 1e-4
    for name, a, b, c in zip(names, wide[1], exact[1], narrow[1], strict=True):
        assert ((a - b).norm() <= 1e-10 * b.norm()).item(), f"{name} in float64"
        cosine = torch.cosine_similarity(c.double().flatten(), b.flatten(), 0).item()
        assert cosine > 0.999, f"{name} in float32: cosine {cosine}"


@pytest.mark.long
def test_logits_of_e_at_full_size():
    """Nineteen layers of Winograd, each with its own rounding, on a photograph's size."""
    x = torch.randn(1, 3, 224, 224)
    model = vggfast.vgg("E", backend="cpu").eval()
    state = {name: value.double() for name, value in model.state_dict().items()}
    with torch.inference_mode():
        ours, exact = model(x), reference.network("E", state, x.double(), crop=224)
    assert reference.errors(ours, exact).rel < 1e-4


def test_batch_norm_folds_in_eval_and_trains_unfolded():
    model = vggfast.vgg("A", num_classes=5, crop=32, batch_norm=True)
    for m in model.features:
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
    x = torch.randn(2, 3, 32, 32)
    plain = nn.Sequential(*model.features)
    torch.testing.assert_close(model.eval().features(x), plain.eval()(x), rtol=1e-4, atol=1e-4)
    got = model.train().features(x)
    torch.testing.assert_close(got, plain.train()(x), rtol=1e-4, atol=1e-4)
    got.sum().backward()
    assert all(p.grad is not None for p in model.features.parameters())


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (33, 65), (64, 32)])
def test_any_size_from_32(size):
    model = vggfast.vgg("A", num_classes=3, crop=64).eval()
    with torch.inference_mode():
        y = model(torch.randn(1, 3, *size))
    assert y.shape == (1, 3)
    assert torch.isfinite(y).all()


def test_layer_table_has_the_papers_arithmetic():
    """2 * multiply-adds of one 224 x 224 image's convolutions: 14.97, 30.69 and 39.02 GFLOP."""
    for net, gflop in (("A", 14.97), ("D", 30.69), ("E", 39.02)):
        assert sum(layer.flop for layer in conv_layers(net)) / 1e9 == pytest.approx(gflop, abs=0.01)


def test_hooks_see_torchs_values_and_end_a_fusion():
    model = vggfast.vgg("A", num_classes=3, crop=32).eval()
    x = torch.randn(1, 3, 32, 32)
    seen: dict[int, torch.Tensor] = {}
    for i in (0, 1, 2):
        model.features[i].register_forward_hook(
            lambda m, inputs, output, i=i: seen.__setitem__(i, output.clone())
        )
    y = model.features(x)
    conv = nn.functional.conv2d(x, model.features[0].weight, model.features[0].bias, padding=1)
    torch.testing.assert_close(seen[0], conv)
    torch.testing.assert_close(seen[1], conv.relu())
    torch.testing.assert_close(seen[2], nn.functional.max_pool2d(conv.relu(), 2))
    torch.testing.assert_close(y, nn.Sequential(*model.features)(x), rtol=1e-4, atol=1e-5)


def test_slices_and_indexing_mean_what_they_mean_in_torchvision():
    model = vggfast.vgg16(num_classes=3, crop=32).eval()
    x = torch.randn(1, 3, 32, 32)
    part = model.features[:9]
    assert part.backend == model.features.backend
    torch.testing.assert_close(part(x), nn.Sequential(*model.features[:9])(x), rtol=1e-4, atol=1e-5)
    assert isinstance(model.features[30], nn.MaxPool2d)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"net": "F"}, ["net:", "'F'", "A, A-LRN, B, C, D, E"]),
        ({"net": "A", "num_classes": 0}, ["num_classes:", "0", "1 or more"]),
        ({"net": "A", "dropout": 1.0}, ["dropout:", "1.0", "< 1"]),
        ({"net": "A", "crop": 100}, ["crop:", "100", "multiples of 32"]),
        ({"net": "A", "init": "zeros"}, ["init:", "'zeros'", "kaiming, glorot, normal"]),
        ({"net": "A", "backend": "mkl"}, ["backend:", "'mkl'", "eager, cpu, triton"]),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError) as caught:
        vggfast.vgg(**arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 32, 32), (1, 3, 31, 32)])
def test_bad_images(shape):
    with pytest.raises(InputError, match=r"x: got shape .* allowed is \(N, 3, H, W\)"):
        vggfast.vgg("A", num_classes=2, crop=32)(torch.randn(shape))
