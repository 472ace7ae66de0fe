"""Files of weights: which network they are, which images it wants, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vggfast
from vggfast.errors import InputError
from vggfast.taps import IMAGENET
from vggfast.weights import load_pretrained, save_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model() -> vggfast.VGG:
    torch.manual_seed(3)
    return vggfast.vgg("A", num_classes=4, crop=32, batch_norm=True).eval()


def same(path: Path, model: vggfast.VGG, whole: bool) -> None:
    found = load_pretrained(path)
    assert not found.model.training
    part = model if whole else model.features
    assert list(found.model.state_dict()) == list(part.state_dict())
    for a, b in zip(found.model.state_dict().values(), part.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvisions_state_dicts(whole, suffix, model, tmp_path):
    path = tmp_path / f"weights{suffix}"
    state = model.state_dict() if whole else model.features.state_dict()
    (torch.save if suffix == ".pth" else save_file)(state, path)
    same(path, model, whole)
    found = load_pretrained(path)
    assert (found.mean, found.std) == IMAGENET


def test_our_own_files_say_how_images_are_normalised(model, tmp_path):
    path, mean, std = tmp_path / "w.safetensors", (1.0, 2.0, 3.0), (50.0, 60.0, 70.0)
    save_weights(path, model, classes=list("abcd"), mean=mean, std=std)
    same(path, model, True)
    x, t = torch.rand(2, 1, 3, 16, 16)
    by_file = vggfast.PerceptualLoss(["relu2_1"], model=path)
    by_hand = vggfast.PerceptualLoss(["relu2_1"], model=model)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
    wanted = by_hand((255 * x - mean) / std, (255 * t - mean) / std)
    torch.testing.assert_close(by_file(x, t), wanted, rtol=1e-4, atol=0)


def test_bad_files(model, tmp_path):
    cases = {
        "list.pth": (lambda p: torch.save([1], p), "no state dict"),
        "text.pth": (lambda p: p.write_text("weights"), "cannot read"),
        "text.safetensors": (lambda p: p.write_text("weights"), "not a whole safetensors"),
        "other.pth": (lambda p: torch.save({"w": torch.ones(3)}, p), "none of A, A-LRN, B"),
        "short.pth": (lambda p: torch.save(dict(list(model.features.state_dict().items())[:-2]), p),
                      "none of A, A-LRN, B"),
    }  # fmt: skip
    for name, (write, words) in cases.items():
        write(tmp_path / name)
        with pytest.raises(InputError, match=words) as caught:
            load_pretrained(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)
