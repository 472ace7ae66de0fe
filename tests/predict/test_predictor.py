"""Predictor: what it takes, that it copies nothing it need not, and what it says of bad input."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import vggfast
from vggfast import InputError, Predictor
from vggfast.data.transforms import CentreCrop
from vggfast.predict import preprocess

Image = pytest.importorskip("PIL.Image")
MEAN, STD = (123.0, 116.0, 103.0), (58.0, 57.0, 56.0)
NAMES = ["red", "green", "blue"]


class Exchange:
    """An array of another library: the exchange protocol and nothing else."""

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __dlpack__(self, **how: object) -> object:
        return self._x.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._x.__dlpack_device__()


class Colours(nn.Module):
    """Logits are the mean of each channel; keeps what it was called with."""

    crop, num_classes = 32, 3

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))
        self.seen: list[Tensor] = []
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        self.modes.append(self.training)
        return x.mean((2, 3)) * self.scale


@pytest.fixture
def model() -> Colours:
    return Colours()


def pixels(*size: int) -> Tensor:
    return torch.randint(0, 256, (*size, 3), dtype=torch.uint8)


def saved(folder: Path, x: Tensor, mode: str = "RGB") -> Path:
    path = folder / f"{mode}.png"
    Image.fromarray(x.numpy()).convert(mode).save(path)
    return path


def test_every_kind_of_image_gives_the_same(model: Colours, tmp_path: Path):
    x = pixels(40, 50)
    predictor = Predictor(model, NAMES, MEAN, STD, scale=(36, 40), top_k=2)
    want = predictor(x)
    path = saved(tmp_path, x)
    kinds = {
        "a batch": x[None], "NumPy": x.numpy(), "an exchange": Exchange(x), "a path": path,
        "text": str(path), "PIL": Image.open(path), "a list": [x],
        "strides": x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    }  # fmt: skip
    for kind, given in kinds.items():
        found = predictor(given)
        assert torch.equal(found.probabilities, want.probabilities), kind
        assert torch.equal(found.indices, want.indices), kind
        assert found.labels == want.labels == [[NAMES[i] for i in want.indices[0]]], kind
    assert want.probabilities.shape == (1, 2)
    several = predictor([x, path, Image.open(path), x.numpy()])
    assert torch.equal(several.indices, want.indices.expand(4, 2))


def test_probabilities_are_the_softmax_sorted(model: Colours):
    x = torch.randn(5, 3, 32, 32)
    found = Predictor(model)(x)
    exact = x.double().mean((2, 3)).softmax(1).sort(1, descending=True)
    torch.testing.assert_close(found.probabilities, exact.values.float())
    assert torch.equal(found.indices, exact.indices)
    assert found.labels == [[str(i) for i in row] for row in exact.indices.tolist()]
    assert found.probabilities.dtype == torch.float32


@pytest.mark.parametrize("size", [(37, 61), (61, 37), (300, 200), (20, 25)], ids=str)
def test_preprocessing_is_that_of_evaluation(size: tuple[int, int], model: Colours):
    """PIL rounds between its two passes, so a pixel may differ by one."""
    x = pixels(*size)
    smooth = x.permute(2, 0, 1)[None].float()
    x = nn.functional.avg_pool2d(smooth, 5, 1, 2)[0].permute(1, 2, 0).to(torch.uint8)
    Predictor(model, mean=MEAN, std=STD, scale=(40, 56))(x)
    window = CentreCrop(32, (40, 56)).plan(0, (x.shape[1], x.shape[0]))
    whole = Image.fromarray(x.numpy()).resize(window.scaled, Image.Resampling.BILINEAR)
    corner = (window.left, window.top, window.left + 32, window.top + 32)
    wanted = torch.from_numpy(np.array(whole.crop(corner))).permute(2, 0, 1)
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    (seen,) = model.seen
    assert seen.shape == (1, 3, 32, 32)
    assert (seen[0] * std + mean - wanted).abs().max() < 1.01


def test_a_size_that_fits_is_not_rescaled():
    x = pixels(2, 40, 52)
    assert preprocess.rescale(x, 40) is x
    assert preprocess.rescale(x, 20).shape == (2, 20, 26, 3)


def test_nothing_is_copied_needlessly(model: Colours, monkeypatch: pytest.MonkeyPatch):
    predictor = Predictor(model)
    for x in (torch.randn(4, 3, 32, 40), torch.randn(3, 32, 32)):
        for given in (x, x.numpy(), Exchange(x)):
            predictor(given)
            assert model.seen[-1].data_ptr() == x.data_ptr()
            assert model.seen[-1].stride()[1:] == x.stride()[-3:]
    cropped: list[Tensor] = []
    real = vggfast.ops.crop_images
    monkeypatch.setattr(
        vggfast.ops, "crop_images", lambda x, *a, **k: cropped.append(x) or real(x, *a, **k)
    )
    x = pixels(3, 32, 36)
    for given in (x, x.numpy(), Exchange(x)):
        predictor(given)
        assert cropped[-1].data_ptr() == x.data_ptr()


def test_batches_are_of_one_size_and_no_larger(model: Colours):
    predictor = Predictor(model, batch_size=3)
    whole = torch.randn(7, 3, 32, 32)
    assert predictor(whole).indices.shape == (7, 3)
    assert [len(x) for x in model.seen] == [3, 3, 1]
    model.seen.clear()
    wide = torch.randn(3, 32, 64)
    found = predictor([*whole[:4], wide, pixels(50, 60), whole[5]])
    assert [tuple(x.shape) for x in model.seen] == [
        (3, 3, 32, 32), (1, 3, 32, 32), (1, 3, 32, 64), (2, 3, 32, 32)
    ]  # fmt: skip
    assert torch.equal(found.indices[:4], predictor(whole[:4]).indices)
    assert predictor([]).labels == predictor(whole[:0]).labels == []
    assert predictor(pixels(0, 32, 32)).indices.shape == (0, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_dtype_is_the_models(dtype: torch.dtype):
    model = Colours(dtype)
    for given in (pixels(32, 32), torch.randn(3, 32, 32)):
        assert Predictor(model)(given).probabilities.dtype == torch.float32
        assert model.seen[-1].dtype == dtype


def test_the_mode_is_restored(model: Colours):
    model.train()
    Predictor(model)(pixels(32, 32))
    assert model.training
    assert model.modes == [False]
    with pytest.raises(InputError):
        Predictor(model)(3)
    assert model.training


def test_the_mode_of_every_part_is_restored():
    """A part that was frozen in eval mode stays so in a model that trains, and the other way."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model[0].eval()
    Predictor(model, crop=32)(pixels(32, 32))
    assert [m.training for m in model] == [False, True, True, True]


def test_other_modes_of_files_become_rgb(model: Colours, tmp_path: Path):
    for mode in ("L", "RGBA", "P", "1"):
        assert Predictor(model)(saved(tmp_path, pixels(33, 44), mode)).indices.shape == (1, 3)


def test_with_a_network_of_ours():
    torch.manual_seed(1)
    model = vggfast.vgg("A", num_classes=4, crop=32)
    found = Predictor(model, "abcd", MEAN, STD)(pixels(2, 32, 32))
    assert found.probabilities.shape == (2, 4)
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(2))


def test_without_pillow_a_path_says_what_to_install(
    model: Colours, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    file = tmp_path / "a.png"
    file.write_bytes(b"never read")
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"^Pillow is not installed .*vggfast\[train"):
        Predictor(model)(file)


X = pixels(32, 32)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (3, "images: got int, allowed are a path, a PIL image, and an array with __dlpack__"),
        ([X, None], "images[1]: got NoneType, allowed are"),
        (X[..., :1], "images: got uint8 of shape (32, 32, 1), allowed are uint8 (H, W, 3)"),
        (X.permute(2, 0, 1), "images: got uint8 of shape (3, 32, 32), allowed are"),
        (X.int(), "images: got int32 of shape (32, 32, 3), allowed are"),
        (X.float(), "images: got float32 of shape (32, 32, 3), allowed are"),
        (torch.zeros(3, 31, 32), "images: got float32 of shape (3, 31, 32), allowed are"),
        (X[0], "images: got uint8 of shape (32, 3), allowed are"),
        ([X[None].expand(2, -1, -1, -1)], "images[0]: got 2 images, allowed is one in a list"),
        ("/no/such.png", "images: got '/no/such.png', allowed is an image file (No such file"),
        ([X, __file__], f"images[1]: got {__file__!r}, allowed is an image file (not one of JPEG"),
    ],
)
def test_bad_images(given: object, reason: str, model: Colours):
    with pytest.raises(InputError) as caught:
        Predictor(model)(given)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"classes": ["a"]}, "classes: got 1 names, allowed are 3, as many as the network has"),
        ({"mean": (1.0, 2.0)}, "mean: got (1.0, 2.0), allowed are three finite numbers"),
        ({"std": (1.0, float("nan"), 1.0)}, "std: got (1.0, nan, 1.0), allowed are three finite"),
        ({"std": (1.0, 0.0, 1.0)}, "std: got (1.0, 0.0, 1.0), allowed are three numbers above 0"),
        ({"crop": 16}, "crop: got 16, allowed are 32 pixels and more"),
        (
            {"scale": (20, 40)},
            "scale: got (20, 40), allowed are S_min <= S_max from the crop",
        ),
        ({"scale": (50, 40)}, "scale: got (50, 40), allowed are S_min <= S_max"),
        ({"top_k": 4}, "top_k: got 4, allowed are 1 to 3"),
        ({"top_k": 0}, "top_k: got 0, allowed are 1 to 3"),
        ({"batch_size": 0}, "batch_size: got 0, allowed is 1 or more"),
    ],
)
def test_bad_arguments(how: dict[str, object], reason: str, model: Colours):
    with pytest.raises(InputError) as caught:
        Predictor(model, **how)
    assert str(caught.value).startswith(reason)
    with pytest.raises(InputError, match=r"^model: got str, allowed is a torch\.nn\.Module"):
        Predictor("vgg16")  # type: ignore[arg-type]


def test_classes_that_do_not_fit_a_module_that_does_not_tell():
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    with pytest.raises(InputError, match=r"^classes: got 2 names, allowed are 3"):
        Predictor(Plain(), ["a", "b"], crop=32)(X)


def test_np_array_is_not_taken_for_a_list(model: Colours):
    many = np.zeros((2, 32, 32, 3), np.uint8)
    many.flags.writeable = False
    assert len(Predictor(model)(many).labels) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("other", ["torch", "cupy"])
def test_arrays_on_a_gpu_stay_there(other: str):
    model = Colours().cuda()
    x = torch.randn(2, 3, 32, 32, device="cuda")
    given = pytest.importorskip("cupy").from_dlpack(x) if other == "cupy" else x
    Predictor(model)(given)
    assert model.seen[-1].data_ptr() == x.data_ptr()
    pictures = pixels(2, 40, 50)
    ours = Predictor(model, mean=MEAN, std=STD)(pictures.cuda())
    theirs = Predictor(model.cpu(), mean=MEAN, std=STD)(pictures)
    torch.testing.assert_close(ours.probabilities, theirs.probabilities, rtol=0.05, atol=0.02)
