"""docs/examples/style_transfer.py: both modes from end to end at a small size, and bad options."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import vggfast

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("skimage")
example = importlib.import_module("style_transfer")  # conftest.py has set the path

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = ["--size", "32", "--net", "A"]


def test_reconstruction_finds_the_photograph_again(tmp_path, capsys):
    """relu1_1 keeps nearly all of it, whatever the weights are."""
    out = tmp_path / "found.png"
    argv = [*SMALL, "--layers", "relu1_1", "--steps", "60", "--smooth", "0", "--out", str(out)]
    assert example.main(argv) == 0
    assert Image.open(out).size == (64, 32)
    line = next(x for x in capsys.readouterr().out.splitlines() if "peak" in x)
    assert float(line.split()[-2]) > 25


def test_transfer_lowers_its_loss(tmp_path, capsys):
    out = tmp_path / "found.png"
    argv = [*SMALL, "--mode", "transfer", "--pool", "max", "--steps", "60", "--out", str(out)]
    assert example.main(argv) == 0
    assert Image.open(out).size == (96, 32)
    lines = [x for x in capsys.readouterr().out.splitlines() if "loss" in x]
    first, last = (float(x.split()[-1]) for x in (lines[0], lines[-1]))
    assert last < first / 10


def test_files_weights_and_pools(tmp_path):
    picture, weights = tmp_path / "mine.png", tmp_path / "vgg11.pth"
    Image.new("RGB", (50, 40), (10, 200, 90)).save(picture)
    torch.save(vggfast.vgg("A", num_classes=2, crop=32).features.state_dict(), weights)
    options = example.parsed(["--content", str(picture), "--weights", str(weights)])
    image = example.photograph("--content", options.content, options)
    assert image.shape == (1, 3, 256, 256)
    torch.testing.assert_close(image[0, :, 9, 9], torch.tensor([10.0, 200.0, 90.0]) / 255)
    model, (mean, std) = example.network(options)
    kinds = {type(m) for m in model if not isinstance(m, (nn.Conv2d, nn.ReLU))}
    assert kinds == {nn.AvgPool2d}
    assert (len(mean), len(std)) == (3, 3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--size", "16"], ["--size: got 16", "32 up"]),
        (["--steps", "0"], ["--steps: got 0"]),
        (["--content", "nowhere.jpg"], ["--content: ", "nowhere.jpg", "image file"]),
        (["--seed", str(2**63)], ["--seed: got", "below 2^63"]),
        (["--device", "meta"], ["--device: got 'meta'"]),
        (["--out", "nowhere/a.png"], ["--out: got nowhere/a.png", "folder that exists"]),
        (["--layers", "relu7_7"], ["layers:", "'relu7_7'", "conv1_1"]),
        (["--style-layers", "relu1_1"], ["--style-layers:", "reconstruct"]),
        (["--mode", "transfer", "--style-weight", "-1"], ["--style-weight: got -1.0"]),
        (["--smooth", "nan"], ["--smooth: got nan"]),
        (["--weights", "nowhere.pth"], ["no file nowhere.pth"]),
        (["--device", "nonsense"], ["--device: got 'nonsense'"]),
        (["--faster"], ["--faster", "--help"]),
        (["--out", "/nowhere/x.png", "--steps", "1", "--layers", "relu1_1"], ["/nowhere/x.png"]),
    ],
)
def test_bad_options(argv, words, capsys):
    assert example.main([*SMALL, *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
