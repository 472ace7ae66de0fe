"""State dicts of other programs: the same network comes out, and it takes RGB."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import vggfast
from vggfast.errors import InputError
from vggfast.taps import IMAGENET
from vggfast.weights import load_pretrained, load_weights

from .conftest import caffe_names, timm_names

pytestmark = pytest.mark.usefixtures("one_thread")
CAFFE_MEAN = (123.68, 116.779, 103.939)


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: t.numpy() for name, t in tensors.items()})
    elif path.suffix == ".safetensors":
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
    else:
        torch.save(tensors, path)
    return path


def same(found: torch.nn.Module, wanted: torch.nn.Module) -> None:
    a, b = found.state_dict(), wanted.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert all(t.dtype is torch.float32 for t in found.parameters())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ""])
@pytest.mark.parametrize("spelling", ["torchvision", "timm"])
def test_torchvision_and_timm(spelling, suffix, model, tmp_path):
    state = dict(model.state_dict()) if spelling == "torchvision" else timm_names(model)
    weights = load_weights(written(tmp_path / f"w{suffix}", state))
    same(weights.model, model)
    assert (weights.net, weights.crop, weights.scale) == ("D", 64, (73, 73))
    assert (weights.mean, weights.std) == IMAGENET
    assert weights.classes == tuple("0123456")
    assert not weights.model.training
    assert all(p.requires_grad for p in weights.model.parameters())


def test_the_old_format_of_torch_and_what_wraps_a_state_dict(model, tmp_path):
    state = OrderedDict((f"module.{n}", t.half()) for n, t in model.state_dict().items())
    path = tmp_path / "w.pth.tar"
    torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=False)
    found = load_weights(path).model.state_dict()
    assert all(torch.equal(found[n], t.half().float()) for n, t in model.state_dict().items())


@pytest.mark.parametrize("suffix", [".pth", ".npz"])
def test_caffe_wants_bgr_and_the_model_takes_rgb(suffix, model, tmp_path):
    weights = load_weights(written(tmp_path / f"w{suffix}", caffe_names(model)))
    assert (weights.mean, weights.std) == (CAFFE_MEAN, (1.0, 1.0, 1.0))
    assert weights.net == "D"
    # Its channels are turned round and nothing else, so on the same numbers all is exact.
    assert torch.equal(
        weights.model.state_dict()["features.0.weight"],
        model.state_dict()["features.0.weight"][:, [2, 1, 0]],
    )
    rgb = torch.randint(0, 256, (2, 3, 64, 64)).float()
    x = rgb - torch.tensor(CAFFE_MEAN).view(1, 3, 1, 1)
    first = [m.state_dict() for m in (weights.model, model)]
    conv = [
        torch.nn.functional.conv2d(
            image.double(), s["features.0.weight"].double(), s["features.0.bias"].double()
        )
        for image, s in zip((x, x.flip(1)), first, strict=True)
    ]
    torch.testing.assert_close(*conv, rtol=1e-12, atol=1e-9)
    with torch.no_grad():
        ours, theirs = weights.model(x), model(x.flip(1))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_tensorflows_layout(model, tmp_path):
    """conv1_1_W (3, 3, C, K) and fc6_W (H W C, K), RGB, as the .npz files that go round."""
    made = {}
    for name, t in caffe_names(model).items():
        layer, leaf = name.split(".")
        if name == "fc6.weight":
            t = t.reshape(-1, 64, 2, 2).permute(2, 3, 1, 0).reshape(2 * 2 * 64, -1)
        elif leaf == "weight":
            t = t.permute(2, 3, 1, 0) if t.dim() == 4 else t.T
        made[f"{layer}_{'W' if leaf == 'weight' else 'b'}"] = t.contiguous()
    weights = load_weights(written(tmp_path / "w.npz", made))
    same(weights.model, model)
    assert (weights.mean, weights.std) == (CAFFE_MEAN, (1.0, 1.0, 1.0))


def test_preprocessing_may_be_given(model, tmp_path):
    path = written(tmp_path / "w.pth", dict(model.state_dict()))
    weights = load_weights(path, preprocessing="caffe")
    assert weights.mean == CAFFE_MEAN
    turned = weights.model.features[0].weight
    assert torch.equal(turned, model.features[0].weight.flip(1))
    same(load_weights(path, preprocessing="caffe-rgb").model, model)
    with pytest.raises(InputError, match="preprocessing: got 'bgr', allowed are torchvision, caff"):
        load_weights(path, preprocessing="bgr")


@pytest.mark.parametrize("spelling", ["part", "caffe"])
def test_convolutions_alone(spelling, model, tmp_path):
    if spelling == "part":
        state = dict(model.features.state_dict())
    else:
        state = {n: t for n, t in caffe_names(model).items() if n.startswith("conv")}
    path = written(tmp_path / "w.pth", state)
    found = load_pretrained(path, preprocessing="torchvision")
    same(found.model, model.features)
    with pytest.raises(InputError, match="the convolutions of net D alone"):
        load_weights(path)


def test_batch_normalisation_without_counters(tmp_path):
    model = vggfast.vgg("A", num_classes=3, crop=32, batch_norm=True)
    state = {n: t for n, t in model.state_dict().items() if "num_batches_tracked" not in n}
    same(load_weights(written(tmp_path / "w.pth", state)).model, model)


def test_every_net_is_recognised(tmp_path):
    for net in ("A", "A-LRN", "B", "C", "E"):
        model = vggfast.vgg(net, num_classes=3, crop=32)
        weights = load_weights(written(tmp_path / "w.pth", dict(model.state_dict())))
        assert weights.net == net
        same(weights.model, model)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("touched"),))


def test_code_in_a_file_is_refused(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Evil()}, "w.pth")
    torch.save(model, "whole.pth")
    np.save("w.npy", {"conv1_1": Evil()}, allow_pickle=True)
    np.savez("w.npz", a=np.array([Evil()], dtype=object))
    for name in ("w.pth", "whole.pth", "w.npy", "w.npz"):
        with pytest.raises(InputError, match=rf"{name} is a pickle that would run code") as raised:
            load_weights(name)
        assert "\n" not in str(raised.value)
    assert not Path("touched").exists()


def test_the_first_tensor_that_does_not_fit_is_named_as_the_file_has_it(model, tmp_path):
    cases = {
        "torchvision": (dict(model.state_dict()), "features.10.weight", "(9, 16, 3, 3)"),
        "timm": (timm_names(model), "head.fc.weight", "(7, 9)"),
        "caffe": (caffe_names(model), "conv3_1.weight", "(9, 16, 3, 3)"),
    }
    for spelling, (state, name, shape) in cases.items():
        right = tuple(state[name].shape)
        state[name] = torch.zeros([int(n) for n in re.findall(r"\d+", shape)])
        path = written(tmp_path / f"{spelling}.pth", state)
        with pytest.raises(InputError) as raised:
            load_weights(path)
        assert f"of D, the nearest, {name} has shape {shape}, not {right}" in str(raised.value)
        with pytest.raises(InputError, match="is not the net E "):
            load_weights(path, net="E", batch_norm=False)
        del state[name]
        with pytest.raises(InputError, match=re.escape(f"{name} of shape {right} is missing")):
            load_weights(written(path, state))


def test_what_is_no_state_dict_is_refused(model, tmp_path):
    torch.save({"optimizer": {}, "rng": {}, "history": [], "model": {}}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"a checkpoint to resume from.*best\.safetensors"):
        load_weights(tmp_path / "last.pt")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot read .*w\.pth"):
        load_weights(tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"no file .*gone\.pth"):
        load_weights(tmp_path / "gone.pth")
    with pytest.raises(InputError, match="net: got 'Z'"):
        load_weights(tmp_path / "w.pth", net="Z")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(InputError, match="one array without a name"):
        load_weights(tmp_path / "one.npy")
    path = written(tmp_path / "w.pth", dict(model.state_dict()))
    with pytest.raises(InputError, match="classes: got 2 names, allowed are 7"):
        load_weights(path, classes=["a", "b"])
    with pytest.raises(InputError, match="allowed is one that localises"):
        load_weights(path, boxes=True)
