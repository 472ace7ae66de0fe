"""The command: round trips through every kind of file, what it says, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vggfast import command
from vggfast.convert.cli import main
from vggfast.weights import load_weights

from .conftest import caffe_names, timm_names

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def state(model, tmp_path) -> Path:
    path = tmp_path / "in.pth"
    torch.save(model.state_dict(), path)
    return path


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_there_and_back(state, model, tmp_path, capsys):
    ours, timm, back = (tmp_path / n for n in ("o.safetensors", "t.safetensors", "b.pth"))
    (tmp_path / "names.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\nseven\n")
    assert main([str(state), str(ours), "--classes", str(tmp_path / "names.txt")]) == 0
    assert "net D, 7 classes, crop 64, RGB, mean 123.675" in capsys.readouterr().out
    assert load_weights(ours).classes[-1] == "seven"
    assert main([str(ours), str(timm), "--to", "timm"]) == 0
    assert "no names of classes" in capsys.readouterr().out
    equal(load_file(timm), timm_names(model))
    assert main([str(timm), str(back), "--to", "torchvision"]) == 0
    equal(torch.load(back, weights_only=True), dict(model.state_dict()))


def test_caffe_keeps_what_its_images_are(model, tmp_path, capsys):
    torch.save(caffe_names(model), tmp_path / "caffe.pth")
    ours, out = tmp_path / "o.safetensors", tmp_path / "o.pth"
    assert main([str(tmp_path / "caffe.pth"), str(ours)]) == 0
    assert "no names but numbers" in capsys.readouterr().out
    weights = load_weights(ours)
    assert (weights.mean, weights.std) == ((123.68, 116.779, 103.939), (1.0, 1.0, 1.0))
    turned = weights.model.state_dict()["features.0.weight"]
    assert torch.equal(turned, model.state_dict()["features.0.weight"].flip(1))
    assert main([str(ours), str(out), "--to", "torchvision"]) == 0
    assert "mean 123.68 116.779 103.939, deviation 1 1 1; torchvision assumes" in (
        capsys.readouterr().out
    )


def test_what_is_refused(state, tmp_path, capsys):
    kept = tmp_path / "kept.safetensors"
    kept.write_text("precious")
    (tmp_path / "two.json").write_text(json.dumps(["a", "b"]))
    cases = {
        ("kept.safetensors",): "--force replaces it",
        ("o.pth",): r"allowed is *.safetensors",
        ("o.safetensors", "--to", "keras"): "to: got 'keras', allowed are vggfast, torchvision, ti",
        ("o.txt", "--to", "timm"): "*.pt",
        ("o.safetensors", "--classes", str(tmp_path / "two.json")): "got 2 names, allowed are 7",
        ("o.safetensors", "--net", "E"): "is not the net E ",
        ("none/o.safetensors",): "cannot write",
    }
    before = sorted(tmp_path.iterdir())
    for (out, *options), words in cases.items():
        assert main([str(state), str(tmp_path / out), *options]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert kept.read_text() == "precious"
    assert main([str(state), str(kept), "--force"]) == 0
    assert load_weights(kept).net == "D"


def test_the_script(state, tmp_path, capsys):
    assert command.main(["convert", str(state), str(tmp_path / "o.safetensors")]) == 0
    assert command.main(["--help"]) == 0
    assert all(name in capsys.readouterr().out for name in ("convert",))
    assert command.main(["paint"]) == 2
    assert "command: got 'paint', allowed are train, evaluate" in capsys.readouterr().err
