"""``python -m vggfast.predict``: files and folders in, the classes the network gives out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import vggfast
from tests.train.helpers import narrow_nets
from vggfast.predict.cli import main
from vggfast.weights import save_weights

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = ("red", "green", "blue [dark]", "grey")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_nets(monkeypatch)


@pytest.fixture
def model() -> vggfast.VGG:
    torch.manual_seed(5)
    return vggfast.vgg("A", num_classes=4, crop=32).eval()


@pytest.fixture
def weights(model, tmp_path) -> str:
    path = tmp_path / "w.safetensors"
    save_weights(path, model, classes=CLASSES, mean=(100.0, 110, 120), std=(50.0, 60, 70))
    return str(path)


@pytest.fixture
def images(tmp_path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for name, image in zip(("a.png", "b/c.png", "b/d.png"), pixels, strict=True):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "pictures", pixels


def test_folders_in_batches_and_what_cannot_be_read(weights, model, images, tmp_path, capsys):
    folder, pixels = images
    (folder / "b" / "broken.png").write_text("no image")
    argv = [str(folder), str(tmp_path / "gone.png"), "--weights", weights, "--json"]
    assert main([*argv, "--top", "2", "--batch", "2", "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert [Path(i["image"]).name for i in told["images"]] == ["a.png", "c.png", "d.png"]
    assert [Path(n).name for n in told["unreadable"]] == ["broken.png", "gone.png"]
    assert "broken.png" in printed.err
    assert "gone.png" in printed.err
    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
    x = ((torch.from_numpy(pixels).float() - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = model(x).softmax(1).topk(2)
    found = torch.tensor([i["probabilities"] for i in told["images"]])
    torch.testing.assert_close(found, wanted.values, rtol=1e-3, atol=1e-5)
    assert [i["numbers"] for i in told["images"]] == wanted.indices.tolist()
    names = [[CLASSES[i] for i in row] for row in wanted.indices.tolist()]
    assert [i["classes"] for i in told["images"]] == names


def test_the_table(weights, images, capsys):
    pytest.importorskip("rich")
    assert main([str(images[0] / "a.png"), "--weights", weights, "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*CLASSES, "a.png", "%"))


def test_state_dicts_have_numbers_and_may_be_given_names(model, images, tmp_path, capsys):
    torch.save(model.state_dict(), tmp_path / "w.pth")
    (tmp_path / "names.json").write_text(
        json.dumps({str(i): ["n0", c] for i, c in enumerate("wxyz")})
    )
    argv = [str(images[0] / "a.png"), "--weights", str(tmp_path / "w.pth"), "--device", "cpu"]
    assert main(argv) == 0
    assert "classes are numbers" in capsys.readouterr().out
    assert main([*argv, "--classes", str(tmp_path / "names.json"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(told["images"][0]["classes"]) == list("wxyz")
    assert told["named"]


def test_bad_input_is_one_line(weights, images, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "names.txt").write_text("one\n\nthree\nfour\n")
    image = str(images[0] / "a.png")
    cases = {
        (str(tmp_path / "empty"), "--weights", weights): "images: no image in",
        (image, "--weights", weights, "--top", "0"): "top: got 0",
        (image, "--weights", weights, "--batch", "0"): "batch: got 0",
        (image, "--weights", weights, "--device", "abacus"): "device: got 'abacus'",
        (image, "--weights", "gone"): "no file gone",
        (image, "--weights", weights, "--classes", str(tmp_path / "names.txt")): "name of class 1",
        (image,): "--weights",
    }
    for argv, words in cases.items():
        assert main(list(argv)) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
