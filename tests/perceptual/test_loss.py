"""``PerceptualLoss`` against its formulas in plain torch and float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import vggfast
from vggfast.errors import InputError
from vggfast.perceptual import PerceptualLoss, gram_matrix

pytestmark = pytest.mark.usefixtures("one_thread")

CONTENT, STYLE = {"relu2_1": 0.7, "conv1_2": 2.0}, {"relu1_2": 1e2, "relu2_1": 30.0}
PLACES = {"conv1_2": 2, "relu1_2": 3, "relu2_1": 6}  # of features


def narrow() -> nn.Module:
    model = nn.Module()
    model.features = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(True), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(True),
        nn.MaxPool2d(2), nn.Conv2d(8, 7, 3, padding=1), nn.ReLU(True), nn.Conv2d(7, 7, 3),
    )  # fmt: skip
    model.classifier = nn.Sequential(nn.Linear(7 * 4, 5), nn.ReLU(True), nn.Linear(5, 2))
    return model


def loss_of(model: nn.Module, **options) -> PerceptualLoss:
    return PerceptualLoss(
        list(CONTENT), list(CONTENT.values()), model=model,
        style_layers=list(STYLE), style_weights=list(STYLE.values()), **options,
    )  # fmt: skip


def written_out(model: nn.Module, x: Tensor, content: Tensor, style: Tensor, criterion: str):
    """The terms by their definitions, a layer at a time, with no op in place and no Gram matrix
    but sums over channels and places."""
    layers = copy.deepcopy(model.features).double()

    def values(image: Tensor) -> dict[str, Tensor]:
        found, y = {}, image.double()
        for i, m in enumerate(layers):
            y = y.clamp(min=0) if isinstance(m, nn.ReLU) else m(y)
            found.update({name: y for name, place in PLACES.items() if place == i})
        return found

    got, wanted, styled = values(x), values(content), values(style)
    terms = {}
    for name, weight in CONTENT.items():
        apart = got[name] - wanted[name]
        apart = apart.abs() if criterion == "l1" else apart**2
        terms[f"content/{name}"] = weight * apart.mean()
    for name, weight in STYLE.items():
        grams = []
        for y in (got[name], styled[name]):
            _, c, h, w = y.shape
            grams.append(torch.einsum("nchw,ndhw->ncd", y, y) / (c * h * w))
        squares = [
            ((a - b) ** 2).sum() for a, b in zip(*torch.broadcast_tensors(*grams), strict=True)
        ]
        terms[f"style/{name}"] = weight * sum(squares) / len(squares)
    return terms


@pytest.mark.parametrize("criterion", ["mse", "l1"])
@pytest.mark.parametrize("style", ["other", "same"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_terms_and_gradient(criterion, style, dtype):
    model = narrow().to(dtype)
    loss = loss_of(model, criterion=criterion)
    x = torch.randn(2, 3, 9, 8, dtype=dtype, requires_grad=True)
    content = torch.randn(2, 3, 9, 8, dtype=dtype)
    painting = torch.randn(1, 3, 12, 7, dtype=dtype) if style == "other" else None
    targets = content if painting is None else loss.targets(content, painting)
    wanted = written_out(model, x, content, content if painting is None else painting, criterion)
    got = loss.terms(x, targets)
    assert list(got) == list(wanted)
    tolerance = {"rtol": 1e-9, "atol": 0} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 0}
    for name, term in wanted.items():
        torch.testing.assert_close(got[name].double(), term, **tolerance, msg=name)
    total = loss(x, targets)
    torch.testing.assert_close(total.double(), sum(wanted.values()), **tolerance)
    (dx,) = torch.autograd.grad(total, x)
    (exact,) = torch.autograd.grad(sum(wanted.values()), x)
    bound = 1e-9 if dtype is torch.float64 else 1e-3  # l1's sign may turn with rounding
    assert (dx.double() - exact).norm() <= bound * exact.norm()


def test_equal_images_have_no_loss_and_targets_no_gradient():
    loss = loss_of(narrow())
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    assert loss(x, x).item() == 0
    targets = loss.targets(x)
    assert not any(t.requires_grad for t in (*targets.content.values(), *targets.style.values()))


@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 3, 1, 7), (1, 1, 2, 2), (0, 3, 4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gram_matrix(shape, layout):
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    wanted = torch.einsum("nchw,ndhw->ncd", x, x) / (shape[1] * shape[2] * shape[3])
    got = gram_matrix(x)
    torch.testing.assert_close(got, wanted)
    grad = torch.randn_like(got)
    torch.testing.assert_close(
        torch.autograd.grad(got, x, grad)[0], torch.autograd.grad(wanted, x, grad)[0]
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram_matrix_of_16_bits_is_summed_in_32(dtype):
    x = torch.full((1, 2, 200, 200), 8.0, dtype=dtype)  # F F^T is 2.6e6, past float16's range
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gram_matrix(x)
    assert got.dtype is torch.float32
    torch.testing.assert_close(got, torch.full((1, 2, 2), 32.0))


def test_the_model_is_left_as_it_is_and_shares_its_memory():
    model = narrow().train()
    loss = loss_of(model).train()
    assert not loss.training
    assert not any(m.training for m in loss.modules())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in loss.parameters())
    theirs = dict(model.named_parameters())
    held = dict(loss.extractor.named_parameters())
    assert list(held) == [f"features.{i}.{kind}" for i in (0, 2, 5) for kind in ("weight", "bias")]
    assert all(p.data_ptr() == theirs[name].data_ptr() for name, p in held.items())
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    loss(x, torch.randn(1, 3, 8, 8)).backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())


def test_fc_layers_have_content():
    model = narrow()
    loss = PerceptualLoss(["fc7", "relu6"], model=model)
    x, t = torch.randn(2, 1, 3, 8, 8)

    def values(image):
        y = model.classifier[:2](model.features(image).flatten(1))
        return y, model.classifier[2](y)

    wanted = sum((a - b).square().mean() for a, b in zip(values(x), values(t), strict=True))
    torch.testing.assert_close(loss(x, t), wanted)


def test_style_alone_needs_no_content():
    loss = PerceptualLoss([], model=narrow(), style_layers=["relu1_2"])
    targets = loss.targets(style=torch.randn(1, 3, 6, 6))
    assert targets.content == {}
    assert loss(torch.randn(3, 3, 8, 8), targets).item() > 0


def test_the_issues_signature():
    assert vggfast.PerceptualLoss is PerceptualLoss
    loss = vggfast.PerceptualLoss(["relu1_2"], [2.0], model=narrow())
    assert list(loss.terms(*torch.randn(2, 1, 3, 8, 8))) == ["content/relu1_2"]
    assert "relu1_2: 2" in repr(loss)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layers": ["relu1_2"], "weights": [1, 2]}, ["weights:", "got 2", "1 layers"]),
        ({"layers": ["relu1_2"], "style_layers": ["relu1_1"], "style_weights": []},
         ["style_weights:", "got 0", "1 style_layers"]),
        ({"layers": ["relu1_2"], "weights": [-1]}, ["weights[0]:", "-1.0", "from 0 up"]),
        ({"layers": ["relu1_2"], "weights": [float("nan")]}, ["weights[0]:", "nan", "finite"]),
        ({"layers": ["relu9_9"]}, ["layers:", "'relu9_9'", "conv1_1, relu1_1, conv1_2"]),
        ({"layers": [], "style_layers": ["fc6"]}, ["style_layers:", "'fc6'", "not FC"]),
        ({"layers": ["relu1_2", "relu1_2"]}, ["layers:", "'relu1_2' twice"]),
        ({"layers": "relu1_2"}, ["layers:", "'relu1_2'", "list"]),
        ({"layers": []}, ["layers:", "none"]),
        ({"layers": ["relu1_2"], "criterion": "l2"}, ["criterion:", "'l2'", "mse, l1"]),
        ({"layers": ["relu1_2"], "model": None}, ["model:", "none", "VGG or the file"]),
        ({"layers": ["relu1_2"], "model": "nowhere.pth"}, ["model:", "no file nowhere.pth"]),
    ],
)  # fmt: skip
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError) as caught:
        PerceptualLoss(**{"model": narrow(), **arguments})
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda loss, x: loss(x, x[..., :6]), ["target:", "(2, 7, 4, 3) at relu2_1"]),
        (lambda loss, x: loss(x, loss.targets(x[:1].repeat(3, 1, 1, 1))),
         ["target:", "(3, 7, 4, 4)", "(1, 7, 4, 4)"]),
        (lambda loss, x: loss.targets(style=x), ["content:", "none", "relu2_1, conv1_2"]),
        (lambda loss, x: loss.targets(), ["content:", "none"]),
        (lambda loss, x: loss(x[0], x), ["x:", "(3, 8, 8)"]),
        (lambda loss, x: loss(x, PerceptualLoss(["relu1_1"], model=narrow()).targets(x)),
         ["target:", "content of relu1_1", "relu2_1"]),
        (lambda loss, x: gram_matrix(x[0]), ["x:", "(3, 8, 8)", "(N, C, H, W)"]),
    ],
)  # fmt: skip
def test_bad_images(act, words):
    with pytest.raises(InputError) as caught:
        act(loss_of(narrow()), torch.randn(2, 3, 8, 8))
    assert all(word in str(caught.value) for word in words), str(caught.value)
