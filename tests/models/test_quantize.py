"""``vggfast.quantize``: what it makes of a network, through the reference's arithmetic.

tests/kernels/test_triton_e4m3.py holds the kernels to the same arithmetic.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggfast
from vggfast import BackendError, InputError, configs
from vggfast.nn import FusedSequential
from vggfast.quantization import Conv3x3E4m3, QuantizedSequential, compare, emulated, quantize

E4M3 = torch.float8_e4m3fn


def images(n: int, size: int = 32, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def small(norm: bool = False, dtype: torch.dtype = torch.float32) -> FusedSequential:
    """Four layers: 3 channels, then 24 with a pool, 1x1, and 3x3 to the end."""
    torch.manual_seed(3)
    parts: list[nn.Module] = []
    for c_in, c_out, kernel in ((3, 20, 3), (20, 24, 3), (24, 18, 1), (18, 30, 3), (30, 5, 3)):
        parts.append(nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2))
        if norm:
            parts.append(nn.BatchNorm2d(c_out))
        parts.append(nn.ReLU())
        if c_out == 24:
            parts.append(nn.MaxPool2d(2))
    model = FusedSequential(*parts[:-1])  # the last layer's results have both signs
    if norm:
        model(images(8, 9))  # running statistics that are not 0 and 1
    return model.eval().to(dtype)


def fake(x: Tensor, peak: Tensor) -> Tensor:
    """x rounded as e4m3 numbers of this largest value are, in float64."""
    scale = (peak / 448).float().double()
    return (x / scale).clamp(-448, 448).to(E4M3).double() * scale


def by_hand(model: FusedSequential, x: Tensor, calibration: Tensor) -> Tensor:
    """small()'s layers written out in float64, with scales from the calibration images."""
    convs = [m.double() for m in copy.deepcopy(model) if isinstance(m, nn.Conv2d)]

    def layer(i: int, v: Tensor, quantized: bool) -> Tensor:
        w = convs[i].weight
        if quantized:
            w = torch.stack([fake(one, one.abs().max()) for one in w])
        y = F.conv2d(v, w, convs[i].bias, padding=convs[i].kernel_size[0] // 2)
        y = y if i == 4 else F.relu(y)
        return F.max_pool2d(y, 2) if i == 1 else y

    x, seen = x.double(), calibration.double()
    for i in range(5):
        quantized = i in (1, 3, 4)
        if quantized:
            x = fake(x, seen.abs().max())
        x, seen = layer(i, x, quantized), layer(i, seen, False)
    return x.detach()


def test_a_small_network_is_what_one_computes_by_hand() -> None:
    model, calibration, x = small(), images(6, 9), images(4, 9, seed=2)
    want, plain = by_hand(model, x, calibration), model(x).detach().double()
    q = quantize(model, [calibration[:2], calibration[2:]])
    with emulated():
        y = q(x)
    assert y.dtype is torch.float32
    error = (y.double() - want).norm() / want.norm()
    moved = (want - plain).norm() / plain.norm()
    # A value on the edge between two e4m3 numbers may fall on either side of it.
    assert error < 0.1 * moved, (error, moved)
    assert 0.005 < moved < 0.1


LONG = [pytest.param(net, marks=pytest.mark.long) for net in ("A-LRN", "D", "E")]


@pytest.mark.parametrize("net", ["A", "B", "C", *LONG])
def test_networks(net: str) -> None:
    torch.manual_seed(1)
    model = vggfast.vgg(net, num_classes=10, crop=32, batch_norm=net == "B").eval()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    q = vggfast.quantize(model, [images(2)])
    convs = [m for m in q.modules() if isinstance(m, Conv3x3E4m3)]
    layers = [layer for layer in configs.conv_layers(net, 32) if layer.op == "conv3x3"][1:]
    assert [(m.in_channels, m.out_channels, m.relu, m.pool) for m in convs] == [
        (layer.c_in, layer.c_out, layer.relu, layer.pool) for layer in layers
    ]
    ends = {"C": 3}.get(net, 1)  # what goes to a 1x1 convolution or to the classifier
    assert sum(not m.quantizes for m in convs) == ends
    assert sum(isinstance(m, nn.Conv2d) for m in q.modules()) == ({"C": 4}.get(net, 1))
    with emulated():
        cost = compare(q, model, [images(2, seed=2)])
    assert 0.005 < cost.relative_error < 0.2
    assert cost.images == 2
    assert type(model.features) is FusedSequential
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())
    assert not any(p.requires_grad for p in q.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_batch_norm_is_folded_before_weights_are_rounded(dtype: torch.dtype) -> None:
    model = small(norm=True, dtype=dtype)
    q = quantize(model, [images(6, 9)])
    norms = [m for m in q.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2  # of the first layer and the 1x1 one
    flat = [nn.Sequential(m, nn.Flatten()).eval() for m in (q, model)]
    with emulated():
        cost = compare(*flat, [images(4, 9, seed=2).to(dtype)])
    assert 0.005 < cost.relative_error < 0.1


def test_scales_and_weights() -> None:
    model, calibration = small(), images(6, 9)
    q = quantize(model, [calibration])
    first, second = q[1], q[3]
    assert isinstance(q, QuantizedSequential)
    assert isinstance(first, Conv3x3E4m3)
    assert isinstance(second, Conv3x3E4m3)
    assert first.weight.shape == (9, 24, 32)
    assert (first.weight[:, :, 20:].float() == 0).all()
    assert torch.equal(first.weight.float().abs().amax((0, 2)), torch.full((24,), 448.0))
    peak = model[:2](calibration).max()
    assert first.input_scale.item() == pytest.approx(peak.item() / 448, rel=1e-6)
    w = first.weight.float().mul(first.scale[:, None] / first.input_scale)[:, :, :20]
    w = w.view(3, 3, 24, 20).permute(2, 3, 0, 1)
    assert ((w - model[2].weight).abs() <= model[2].weight.abs() / 16 + 1e-4).all()
    torch.testing.assert_close(first.shift, model[2].bias)  # its result is not quantised
    assert (first.quantizes, second.quantizes, q[4].quantizes) == (False, True, False)
    torch.testing.assert_close(second.shift * q[4].input_scale, model[7].bias)


def test_percentile_clamps_what_is_rare() -> None:
    model, calibration = small(), images(6, 9)
    calibration[0, :, 4, 4] = 1000.0
    whole, most = (quantize(model, [calibration], percentile=p) for p in (100, 99))
    peaks = [q[1].input_scale.item() for q in (whole, most)]
    assert peaks[0] == quantize(model, [calibration])[1].input_scale.item()
    values = model[:2](calibration).flatten().sort().values
    assert peaks[1] * 448 == pytest.approx(values[-len(values) // 100].item(), rel=0.05)
    x = images(4, 9, seed=2)
    with emulated(), torch.no_grad():
        lost = [(q(x) - model(x)).norm() for q in (whole, most)]
    assert lost[1] < lost[0]


def test_zero_weights_and_maps_are_served() -> None:
    model = small()
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)  # so that the next layer sees zeros
        model[2].weight[3] = 0
    q = quantize(model, [images(2, 9)])
    with emulated(), torch.no_grad():
        y, want = q(images(2, 9)), model(images(2, 9))
    assert (y - want).norm() < 0.1 * want.norm()


def test_copies_files_and_casts_keep_its_numbers() -> None:
    q, x = quantize(small(), [images(6, 9)]), images(2, 9, seed=2)
    other = quantize(small(), [10 * images(6, 9, seed=4)])
    with emulated():
        want = q(x)
        assert not torch.equal(other(x), want)
        file = io.BytesIO()
        torch.save(q.state_dict(), file)
        file.seek(0)
        other.load_state_dict(torch.load(file, weights_only=True))
        for same in (other, copy.deepcopy(q), pickle.loads(pickle.dumps(q)), q.to("cpu")):
            assert torch.equal(same(x), want)
        low = copy.deepcopy(q).to(torch.bfloat16)
        for name, b in low.named_buffers():
            assert b.dtype is q.get_buffer(name).dtype
            assert torch.equal(b.float(), q.get_buffer(name).float())
        y = low(x.bfloat16())
        assert y.dtype is torch.bfloat16
        torch.testing.assert_close(y.float(), want, rtol=0.1, atol=0.1)
        assert torch.equal(low.float().half().float()[0](x), low[0](x))
    names = [n for n, _ in q.named_buffers()]
    assert names[:4] == ["2.weight_bits", "2.input_scale", "2.scale", "2.shift"]


def test_trees_hooks_and_shared_modules() -> None:
    torch.manual_seed(0)
    relu = nn.ReLU()
    inner = FusedSequential(nn.Conv2d(16, 16, 3, padding=1), relu, nn.Conv2d(16, 16, 3, padding=1))
    model = nn.Sequential(
        FusedSequential(nn.Conv2d(3, 16, 3, padding=1), relu, inner, relu),
        nn.Conv2d(16, 16, 3, padding=1),  # torch's own
        FusedSequential(nn.Conv2d(16, 16, 3, padding=1), relu, nn.Conv2d(16, 4, 3, padding=1)),
    ).eval()
    seen: list[Tensor] = []
    model[2][2].register_forward_hook(lambda m, x, y: seen.append(y))
    inner.register_forward_hook(lambda m, x, y: seen.append(y))
    q = quantize(model, [images(4, 8)])
    seen.clear()
    x = images(2, 8, seed=2)
    with emulated():
        y = q(x)
    want = model(x)
    assert 0.001 < (y - want).norm() / want.norm() < 0.1
    kinds = [type(m).__name__ for m in q.modules() if isinstance(m, nn.Conv2d | Conv3x3E4m3)]
    assert kinds == ["Conv2d", "Conv3x3E4m3", "Conv3x3E4m3", "Conv2d", "Conv3x3E4m3", "Conv2d"]
    assert len(seen) == 4  # two of q, two of the model
    assert torch.equal(seen[1], y)
    assert "Conv3x3E4m3(16, 16, relu, result e4m3)" in repr(q)


def test_only_asked_for_is_it_emulated() -> None:
    q = quantize(small(), [images(2, 9)])
    with pytest.raises(BackendError, match="e4m3 was asked for on cpu, but"):
        q(images(2, 9))
    with emulated():
        assert q(images(2, 9)).shape == (2, 5, 4, 4)
        assert q(images(0, 9)).shape == (0, 5, 4, 4)
    with pytest.raises(BackendError):
        q(images(2, 9))
    x = images(2, 9).requires_grad_()
    with pytest.raises(InputError, match="requires a gradient"):
        q(x)


@pytest.mark.parametrize(
    ("model", "calibration", "options", "words"),
    [
        (lambda m: "vgg", lambda x: [x], {}, ["model:", "str", "torch.nn.Module"]),
        (lambda m: m.train(), lambda x: [x], {}, ["model:", "training mode", "eval mode"]),
        (
            lambda m: m[:2].eval(),
            lambda x: [x],
            {},
            ["model:", "without convolutions", "16 or more"],
        ),
        (lambda m: nn.Sequential(*m).eval(), lambda x: [x], {}, ["model:", "without convolutions"]),
        (lambda m: m.double(), lambda x: [x], {}, ["model:", "float64 in 0.weight", "bfloat16"]),
        (lambda m: m, lambda x: [], {}, ["calibration:", "no values before 2", "one or more"]),
        (lambda m: m, lambda x: [x[:0]], {}, ["calibration:", "no values before 2"]),
        (lambda m: m, lambda x: x, {}, ["calibration:", "one Tensor", "an iterable of batches"]),
        (lambda m: m, lambda x: None, {}, ["calibration:", "one NoneType", "an iterable"]),
        (lambda m: m, lambda x: [x, (x, 1)], {}, ["calibration:", "tuple as batch 1"]),
        (lambda m: m, lambda x: [x.int()], {}, ["calibration:", "torch.int32 as batch 0"]),
        (lambda m: m, lambda x: [x / 0], {}, ["calibration:", "infinity in batch 0"]),
        (lambda m: m.half(), lambda x: [x * 6e4], {}, ["calibration:", "not finite before 2"]),
        (lambda m: m, lambda x: [x], {"percentile": 0}, ["percentile:", "0 < percentile <= 100"]),
        (lambda m: m, lambda x: [x], {"percentile": 101}, ["percentile:", "101"]),
    ],
)
def test_bad_arguments(model, calibration, options, words) -> None:
    with pytest.raises(InputError) as caught:
        quantize(model(small()), calibration(images(2, 9)), **options)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_compare_says_how_far_two_networks_are() -> None:
    def logits(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3]

    x = images(4)
    assert compare(logits, logits, [x]).relative_error == 0
    cost = compare(lambda v: -logits(v), logits, [x, x])
    assert (cost.relative_error, cost.top1_agreement, cost.images) == (2.0, 0.0, 8)
    with pytest.raises(InputError, match="no image"):
        compare(logits, logits, [])
    with pytest.raises(InputError, match=r"allowed is \(N, classes\)"):
        compare(lambda v: v, logits, [x])


@pytest.mark.long
def test_a_trained_network_keeps_its_answers() -> None:
    """VGG-A with batch normalisation after 80 steps on scikit-learn's digits."""
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = datasets.load_digits(return_X_y=True)
    x = torch.tensor(pixels / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8)
    x = F.interpolate(x, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    y, order = torch.tensor(labels), torch.randperm(len(x))
    train, test = order[:-256], order[-256:]
    model = vggfast.vgg("A", num_classes=10, crop=32, batch_norm=True, dropout=0.0).train()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4)
    for _ in range(80):
        batch = train[torch.randint(len(train), (32,))]
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()
        optimiser.zero_grad()
    q = quantize(model.eval(), x[train[:256]].split(64))
    parts = test.split(64)
    with torch.no_grad(), emulated():
        cost = compare(q, model, [x[part] for part in parts])
        right = [
            sum(int((m(x[part]).argmax(1) == y[part]).sum()) for part in parts) / len(test)
            for m in (model, q)
        ]
    assert right[0] > 0.9
    assert right[1] > right[0] - 0.02
    assert cost.top1_agreement > 0.97
    assert cost.relative_error < 0.1
