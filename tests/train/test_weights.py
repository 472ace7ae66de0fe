"""Weights files: what is saved comes back, and what cannot be used is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import vggfast
from vggfast.errors import InputError
from vggfast.weights import load_weights, save_weights
from vggfast.weights.format import first_mismatch, read

CLASSES = ("cat", "dog", "émeu, gris")
MEAN, STD = (123.68, 116.779, 103.939), (58.4, 57.1, 57.4)


@pytest.fixture
def saved(tmp_path: Path, narrow: None) -> tuple[vggfast.VGG, Path]:
    model = vggfast.vgg("B", num_classes=3, batch_norm=True, crop=64)
    path = tmp_path / "b.safetensors"
    save_weights(
        path, model, classes=CLASSES, mean=MEAN, std=STD, scale=(73, 146), extra={"epoch": "7"}
    )
    return model, path


def rewrite(path: Path, **changed: str) -> None:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    metadata.update(changed)
    metadata = {name: text for name, text in metadata.items() if text}
    safetensors.torch.save_file(safetensors.torch.load_file(path), path, metadata)


def test_what_is_saved_comes_back(saved: tuple[vggfast.VGG, Path]) -> None:
    model, path = saved
    torch.manual_seed(5)
    state = torch.get_rng_state()
    weights = load_weights(path)
    assert torch.equal(state, torch.get_rng_state())
    assert (weights.net, weights.crop, weights.scale) == ("B", 64, (73, 146))
    assert (weights.classes, weights.mean, weights.std) == (CLASSES, MEAN, STD)
    assert weights.extra == {"epoch": "7"}
    assert not weights.model.training
    assert weights.model.batch_norm
    assert all(p.requires_grad for p in weights.model.parameters())
    other = weights.model.state_dict()
    assert list(other) == list(model.state_dict())
    assert all(torch.equal(other[name], t) for name, t in model.state_dict().items())
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(weights.model(x), model.eval()(x))


def test_a_file_can_be_read_by_whom_the_mask_lets(saved: tuple[vggfast.VGG, Path]) -> None:
    plain = saved[1].with_name("plain")
    plain.touch()
    assert saved[1].stat().st_mode == plain.stat().st_mode


def test_the_metadata_is_plain_text(saved: tuple[vggfast.VGG, Path]) -> None:
    with safe_open(saved[1], "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(saved[0].state_dict())
    assert metadata["vggfast_format"] == "1"
    assert (metadata["net"], metadata["num_classes"], metadata["crop"]) == ("B", "3", "64")
    assert json.loads(metadata["batch_norm"]) is True
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["scale"]) == [73, 146]


def test_without_a_scale_it_is_the_crop(tmp_path: Path, narrow: None) -> None:
    model = vggfast.vgg("A", num_classes=3, crop=32)
    save_weights(tmp_path / "a", model, classes=CLASSES, mean=MEAN, std=STD)
    assert load_weights(tmp_path / "a", backend="eager").scale == (32, 32)


def test_what_is_no_weights_file_is_refused(saved: tuple[vggfast.VGG, Path]) -> None:
    _, path = saved
    raw = path.read_bytes()
    with pytest.raises(InputError, match=r"weights: no file .*gone"):
        load_weights(path.with_name("gone"))
    for content in (b"", b"not safetensors at all", raw[:1000], raw[:-1]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"b\.safetensors is not a whole safetensors file"):
            load_weights(path)
    safetensors.torch.save_file({"x": torch.ones(2)}, path)
    with pytest.raises(InputError, match="no vggfast_format in its metadata"):
        read(path)  # load_weights would ask which state dict it is


@pytest.mark.parametrize(
    ("key", "text"),
    [("net", "Z"), ("num_classes", "x"), ("mean", "[1, 2]"), ("scale", "5"), ("classes", ""),
     ("crop", "33"), ("batch_norm", "yes")],
)  # fmt: skip
def test_bad_metadata_is_refused(saved: tuple[vggfast.VGG, Path], key: str, text: str) -> None:
    rewrite(saved[1], **{key: text})
    with pytest.raises(InputError, match=r"b\.safetensors has bad metadata") as raised:
        load_weights(saved[1])
    assert "\n" not in str(raised.value)


def test_the_first_tensor_that_does_not_fit_is_named(saved: tuple[vggfast.VGG, Path]) -> None:
    rewrite(saved[1], net="A")
    with pytest.raises(InputError, match="not the net A that it says") as raised:
        load_weights(saved[1])
    assert "(features.4.weight has shape (8,), not (16, 8, 3, 3))" in str(raised.value)
    a, b = {"x": torch.ones(2), "y": torch.ones(3)}, {"x": torch.ones(2), "z": torch.ones(3)}
    assert first_mismatch(a, b) == "y of shape (3,) is missing"
    assert first_mismatch({"x": a["x"]}, b) == "z of shape (3,) is one too many"
    assert first_mismatch(a, a) is None


def test_what_cannot_be_saved_is_refused(tmp_path: Path, narrow: None) -> None:
    model = vggfast.vgg("A", num_classes=3, crop=32)
    common = {"mean": MEAN, "std": STD}
    with pytest.raises(InputError, match="classes: got 1 names, allowed are 3"):
        save_weights(tmp_path / "a", model, classes=["one"], **common)
    with pytest.raises(InputError, match="extra: got 'net'"):
        save_weights(tmp_path / "a", model, classes=CLASSES, extra={"net": "D"}, **common)
    with pytest.raises(InputError, match="cannot write"):
        save_weights(tmp_path / "none" / "a", model, classes=CLASSES, **common)
    assert list(tmp_path.iterdir()) == []
