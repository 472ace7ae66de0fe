"""Staged initialisation: exactly the paper's layers are copied, and fine-tuning copies all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import vggfast
from vggfast.configs import NETS
from vggfast.engine.staged import fine_tune_from, init_from, layer_names
from vggfast.errors import InputError
from vggfast.train.cli import main
from vggfast.weights import load_weights, save_weights

from .helpers import write_idx

# Of each net, the modules that take A's conv1_1, conv2_1, conv3_1, conv3_2 (features.0, 3, 6, 8),
# read off table 1 of the paper and torchvision's numbering by hand.
PLACES = {
    "A": (0, 3, 6, 8),
    "A-LRN": (0, 4, 7, 9),
    "B": (0, 5, 10, 12),
    "C": (0, 5, 10, 12),
    "D": (0, 5, 10, 12),
    "E": (0, 5, 10, 12),
}
A_PLACES = PLACES["A"]
FC = ("classifier.0", "classifier.3", "classifier.6")


def saved(path: Path, net: str = "A", **options: object) -> tuple[vggfast.VGG, Path]:
    torch.manual_seed(11)
    model = vggfast.vgg(net, crop=32, **{"num_classes": 5, **options})  # type: ignore[arg-type]
    with torch.no_grad():
        for t in model.state_dict().values():
            if t.dtype == torch.float32:
                t.normal_()
    save_weights(
        path, model, classes=[str(i) for i in range(model.num_classes)], mean=[0] * 3, std=[1] * 3
    )
    return model, path


@pytest.mark.parametrize("net", list(PLACES))
def test_exactly_these_layers_are_copied(tmp_path: Path, narrow: None, net: str) -> None:
    a, path = saved(tmp_path / "a")
    torch.manual_seed(7)
    fresh = vggfast.vgg(net, num_classes=5, crop=32).state_dict()
    torch.manual_seed(7)
    model = vggfast.vgg(net, num_classes=5, crop=32)
    layers = init_from(model, path)
    assert layers == ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "fc6", "fc7", "fc8"]
    source = {
        f"features.{new}": f"features.{old}" for new, old in zip(PLACES[net], A_PLACES, strict=True)
    }
    source |= {name: name for name in FC}
    for key, t in model.state_dict().items():
        module, _, part = key.rpartition(".")
        if module in source:
            assert torch.equal(t, a.state_dict()[f"{source[module]}.{part}"]), key
        else:
            assert torch.equal(t, fresh[key]), key


def test_batch_normalisation_goes_along(tmp_path: Path, narrow: None) -> None:
    a, path = saved(tmp_path / "a", batch_norm=True)
    model = vggfast.vgg("B", num_classes=5, crop=32, batch_norm=True)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    init_from(model, path)
    theirs, ours = a.state_dict(), model.state_dict()
    # Of A: conv 0, bn 1, relu, pool, conv 4, bn 5; of B: conv 0, bn 1, relu, conv 3, bn 4, relu,
    # pool, conv 7, bn 8.
    for new, old in (("0", "0"), ("1", "1"), ("7", "4"), ("8", "5")):
        for part in ("weight", "bias"):
            assert torch.equal(ours[f"features.{new}.{part}"], theirs[f"features.{old}.{part}"])
    assert torch.equal(ours["features.8.running_var"], theirs["features.5.running_var"])
    assert torch.equal(ours["features.4.weight"], before["features.4.weight"])


def test_layer_names_cover_all_modules_with_parameters() -> None:
    for net in NETS:
        for norm in (False, True):
            with torch.device("meta"):
                model = vggfast.vgg(net, batch_norm=norm)
            parameters = {key.rpartition(".")[0] for key in model.state_dict()}
            assert set(layer_names(net, norm)) == parameters
    assert layer_names("D", False)["features.28"] == "conv5_3"


def test_what_does_not_fit_is_refused_and_nothing_is_copied(tmp_path: Path, narrow: None) -> None:
    _, path = saved(tmp_path / "a")
    other = vggfast.vgg("D", num_classes=7, crop=32)
    before = {k: t.clone() for k, t in other.state_dict().items()}
    with pytest.raises(InputError, match=r"fc8\.weight has shape \(5, 32\), not \(7, 32\)"):
        init_from(other, path)
    with pytest.raises(InputError, match=r"conv1_1 bn\.weight of shape \(8,\) is missing"):
        init_from(vggfast.vgg("D", num_classes=5, crop=32, batch_norm=True), path)
    with pytest.raises(InputError, match=r"features\.2\.weight of shape \(8, 8, 3, 3\) is missing"):
        fine_tune_from(vggfast.vgg("B", num_classes=5, crop=32), path)
    assert all(torch.equal(t, before[k]) for k, t in other.state_dict().items())


def test_fine_tuning_starts_from_all_layers(tmp_path: Path, narrow: None) -> None:
    d, path = saved(tmp_path / "d", "D")
    model = vggfast.vgg("D", num_classes=5, crop=32)
    fine_tune_from(model, path)
    assert all(torch.equal(t, d.state_dict()[k]) for k, t in model.state_dict().items())


def test_the_commands(tmp_path: Path, narrow: None, capsys: pytest.CaptureFixture[str]) -> None:
    """A, then B from it, then B again from B, then a resumption without the first file."""
    data = f"fashion-mnist:{write_idx(tmp_path / 'idx')}"
    a, b, c = (str(tmp_path / name) for name in "abc")
    common = ["--data", data, "--epochs", "1"]
    assert main([*common, "--out", a]) == 0
    assert main([*common, "--net", "B", "--init-from", f"{a}/best.safetensors", "--out", b]) == 0
    printed = capsys.readouterr().out
    assert (
        f"from {a}/best.safetensors: conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8" in printed
    )
    # A rate this small leaves what was copied, but for weight decay, where it is.
    fine = [*common, "--net", "B", "--fine-tune-from", f"{b}/last.safetensors", "--lr", "1e-12",
            "--out", c, "--ema", "0.9"]  # fmt: skip
    assert main(fine) == 0
    assert "all layers" in capsys.readouterr().out
    old, new = (load_weights(f"{f}/last.safetensors").model.state_dict() for f in (b, c))
    for key, t in old.items():
        torch.testing.assert_close(new[key], t, rtol=1e-5, atol=1e-8)
    (tmp_path / "b" / "last.safetensors").unlink()
    assert main(["--out", c, "--resume", "--epochs", "2"]) == 0
    assert main([*common, "--net", "B", "--init-from", str(tmp_path / "none")]) == 2
    assert "weights: no file" in capsys.readouterr().err
