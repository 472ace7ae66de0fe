"""Features against plain torch in float64: every window, every place, mirror images, lengths."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.evaluation.helpers import MEAN, STD, build, plain, save_net
from vggfast.errors import InputError
from vggfast.features import extract, load
from vggfast.models.vgg import VGG
from vggfast.transfer import combine, layer, mean_activations
from vggfast.transfer.layers import width
from vggfast.weights import load_weights

from .helpers import annotation

# How much of torchvision's classifier each FC layer is.
FC = {"fc6": 1, "relu6": 2, "fc7": 4, "relu7": 5, "fc8": 7}


def by_hand(model: VGG, x: Tensor, name: str = "relu7", flips: bool = True) -> Tensor:
    """Mean activations in float64, window by window, image and mirror image one after the other."""
    features, classifier = plain(model, torch.float64)
    k = model.crop // 32
    total = 0.0
    for images in (x, torch.flip(x, [3])) if flips else (x,):
        if name in FC:
            maps = features(images.double())
            rows = [
                classifier[: FC[name]](maps[:, :, i : i + k, j : j + k].flatten(1))  # type: ignore[index]
                for i in range(maps.shape[2] - k + 1)
                for j in range(maps.shape[3] - k + 1)
            ]
            mean = torch.stack(rows).mean(0)
        else:
            mean = _conv_layers(features, images.double())[name].flatten(2).mean(2)  # type: ignore[arg-type]
        total = total + mean
    return total / (2 if flips else 1)  # type: ignore[return-value]


def _conv_layers(features: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    found, block, number = {}, 1, 0
    for m in features:
        x = m(x.clone())
        if isinstance(m, nn.Conv2d):
            number += 1
            found[f"conv{block}_{number}"] = x
        elif isinstance(m, nn.ReLU):
            found[f"relu{block}_{number}"] = x
        elif isinstance(m, nn.MaxPool2d):
            found[f"pool{block}"] = x
            block, number = block + 1, 0
    return found


@pytest.mark.parametrize("name", ["relu7", "fc7", "fc6", "fc8", "relu5_2", "conv4_1", "pool5"])
@pytest.mark.parametrize("flips", [True, False])
def test_mean_activations(name: str, flips: bool) -> None:
    model, x = build("A", 64), torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        exact = by_hand(model, x, name, flips)
        ours = mean_activations(layer(model, name), x, flips=flips)
        wide = mean_activations(layer(model.double(), name), x.double(), flips=flips)
    assert ours.dtype == torch.float32
    assert ours.shape == (2, width(model, name))
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide, exact, rtol=1e-10, atol=1e-12)


def test_activations_are_after_the_relu_and_without_dropout() -> None:
    model, x = build("A", 32, dropout=0.5), torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        first, second = (mean_activations(layer(model), x) for _ in range(2))
        before = mean_activations(layer(model, "fc7"), x)
    assert torch.equal(first, second)
    assert (first >= 0).all()
    assert (before < 0).any()


def test_a_layer_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(InputError, match=r"^layer: got 'relu5_3' of net A, allowed are conv1_1, "):
        layer(build("A"), "relu5_3")


def test_averaged_scales_have_length_one() -> None:
    rng = np.random.default_rng(0)
    part = rng.normal(size=(3, 5, 7)).astype(np.float32)
    mean = part.astype(np.float64).mean(0)
    expected = mean / np.sqrt((mean**2).sum(1, keepdims=True))
    np.testing.assert_allclose(combine([part]), expected, rtol=1e-6)
    np.testing.assert_allclose(combine([part], normalise=False), mean, rtol=1e-6)


def test_stacked_parts_have_equal_lengths() -> None:
    rng = np.random.default_rng(0)
    d, e = rng.normal(size=(2, 4, 3)).astype(np.float32), 100 * rng.random((2, 4, 5))
    found = combine([d, e.astype(np.float32)], "stack")
    assert found.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    pieces = np.split(found, [3, 6, 11], axis=1)
    for piece, given in zip(pieces, (*d, *e), strict=True):
        np.testing.assert_allclose(np.linalg.norm(piece, axis=1), 0.5, rtol=1e-6)
        unit = given / np.linalg.norm(given, axis=1, keepdims=True)
        np.testing.assert_allclose(piece, unit / 2, rtol=1e-5)
    plain = combine([d], "stack", normalise=False)
    np.testing.assert_array_equal(plain, np.concatenate(list(d), 1))


def test_descriptors_take_little_more_memory_than_they_are() -> None:
    """Only one part at a time is in float64."""
    part = np.ones((8, 256, 512), np.float32)
    tracemalloc.start()
    try:
        found = combine([part, part], "stack")
        assert tracemalloc.get_traced_memory()[1] < 2 * found.nbytes
    finally:
        tracemalloc.stop()


def test_a_part_of_zeros_stays_zeros() -> None:
    part = np.zeros((1, 2, 3), np.float32)
    part[0, 1, 2] = 5
    assert combine([part]).tolist() == [[0, 0, 0], [0, 0, 1]]


def reference(
    path: Path, model: VGG, scale: int, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Mean activations of an image file, from its pixels on, with Pillow and plain torch."""
    pil = pytest.importorskip("PIL.Image")
    image = pil.open(path).convert("RGB")
    image = image if box is None else image.crop(box)
    factor = scale / min(image.size)
    size = [max(scale, round(side * factor)) for side in image.size]
    pixels = np.array(image.resize(size, pil.Resampling.BILINEAR), np.float64)
    x = torch.tensor((pixels - MEAN) / STD).permute(2, 0, 1)[None]
    with torch.no_grad():
        return by_hand(model, x)[0].numpy()


@pytest.mark.parametrize("form", ["safetensors", "parquet"])
def test_images_to_features(
    form: str, net: Path, other: Path, photos: Path, tmp_path: Path
) -> None:
    """From files of several sizes, by two networks at two scales, in shards of three."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    nets = [load_weights(path).model for path in (net, other)]
    found = {}
    for how in ("average", "stack"):
        done = extract(
            weights=[net, other], data=f"images:{photos}", out=tmp_path / how, scales=(40, 33),
            combine=how, format=form, shard_size=3, progress=False,
        )  # fmt: skip
        assert done is not None
        assert (done.records, done.shards, done.made, done.skipped) == (7, 3, 3, ())
        found[how] = load(tmp_path / how)
        assert done.dimension == found[how].values.shape[1]
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    assert list(found["stack"].names) == names
    assert found["stack"].labels.tolist() == [-1] * 7
    assert set(found["stack"].parts) == {"all"}
    assert found["stack"].values.dtype == np.float32
    for i, name in enumerate(names):
        parts = [[reference(photos / name, model, q) for q in (33, 40)] for model in nets]
        stacked = [v / np.linalg.norm(v) for of_net in parts for v in of_net]
        averaged = [np.mean(of_net, 0) for of_net in parts]
        averaged = [v / np.linalg.norm(v) for v in averaged]
        np.testing.assert_allclose(
            found["stack"].values[i], np.concatenate(stacked) / 2, rtol=1e-3, atol=1e-6
        )
        np.testing.assert_allclose(
            found["average"].values[i], np.concatenate(averaged) / 2**0.5, rtol=1e-3, atol=1e-6
        )


def csv_boxes(path: Path, rows: list[tuple[str, int, int, int, int]]) -> Path:
    lines = [",".join(map(str, row)) for row in rows]
    path.write_text("\n".join(["image,left,top,right,bottom", *lines]) + "\n")
    return path


def json_boxes(path: Path, rows: list[tuple[str, int, int, int, int]]) -> Path:
    entries = [f'{{"image": "{name}", "box": {list(box)}}}' for name, *box in rows]
    path.write_text(f"[{', '.join(entries)}]")
    return path


def xml_boxes(path: Path, rows: list[tuple[str, int, int, int, int]]) -> Path:
    folder = path.with_suffix("")
    by_stem: dict[str, list[tuple[str, tuple[float, float, float, float], int]]] = {}
    for name, left, top, right, bottom in rows:
        objects = by_stem.setdefault(Path(name).stem, [])
        objects.append(("thing", (left + 1, top + 1, right, bottom), 0))
    for stem, objects in by_stem.items():
        annotation(folder / f"{stem}.xml", *objects)
    return folder


@pytest.mark.parametrize(
    ("write", "suffix"), [(csv_boxes, ".csv"), (json_boxes, ".json"), (xml_boxes, ".xml")]
)
def test_boxes(
    write: Callable[..., Path], suffix: str, net: Path, photos: Path, tmp_path: Path
) -> None:
    """Every box is a record: its pixels alone, the whole image, or both side by side."""
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    rows = [(name, 2, 3, 18, 20) for name in names] + [(names[0], 0, 0, 10, 15)]
    boxes = write(tmp_path / f"boxes{suffix}", rows)
    common = {"weights": net, "data": f"images:{photos}", "scales": "32", "boxes": boxes}
    found = {}
    for region in ("image", "box", "both"):
        out = tmp_path / region
        extract(**common, out=out, region=region, shard_size=4, progress=False)  # type: ignore[arg-type]
        found[region] = load(out)
    model = load_weights(net).model
    assert found["both"].names == (names[0], names[0], *names[1:])
    assert found["both"].boxes is not None
    assert found["both"].boxes[:2].tolist() == [[2, 3, 18, 20], [0, 0, 10, 15]]
    assert found["both"].values.shape == (8, 2 * found["box"].values.shape[1])
    for i, name in enumerate(found["both"].names):
        box = (0, 0, 10, 15) if i == 1 else (2, 3, 18, 20)
        whole, part = (reference(photos / name, model, 32, b) for b in (None, box))
        whole, part = (v / np.linalg.norm(v) for v in (whole, part))
        close = {"rtol": 1e-3, "atol": 1e-6}
        np.testing.assert_allclose(found["image"].values[i], whole, **close)
        np.testing.assert_allclose(found["box"].values[i], part, **close)
        both = np.concatenate([whole, part]) / 2**0.5
        np.testing.assert_allclose(found["both"].values[i], both, **close)


def test_a_set_with_parts_and_classes(net: Path, tmp_path: Path) -> None:
    """scikit-learn's digits, of which mirror images are none."""
    sklearn = pytest.importorskip("sklearn.datasets")
    pytest.importorskip("PIL.Image")
    path = save_net(tmp_path / "digits.safetensors", "A", 3, tuple("0123456789"))
    out = tmp_path / "out"
    done = extract(weights=path, data="digits", out=out, limit=12, scales="one", progress=False)
    assert done is not None
    found = load(out)
    assert found.parts == ("train",) * 12 + ("val",) * 12
    assert found.classes == tuple("0123456789")
    assert found.manifest["settings"]["flips"] is False
    assert set(found.labels) <= set(sklearn.load_digits().target)
