"""weights="imagenet": found where torch.hub keeps them, checked, and nothing downloaded."""

from __future__ import annotations

import hashlib

import pytest
import torch

from vggfast.errors import InputError
from vggfast.weights import imagenet, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_a_missing_file_is_told_with_its_address_and_place(folder):
    with pytest.raises(InputError) as raised:
        load_weights("imagenet", net="D")
    assert f"no file {folder / 'vgg16-397923af.pth'}" in str(raised.value)
    assert "https://download.pytorch.org/models/vgg16-397923af.pth" in str(raised.value)
    with pytest.raises(InputError, match="vgg13_bn-abd245e5"):
        load_weights("imagenet", net="B", batch_norm=True)
    with pytest.raises(InputError, match="got 'C' with weights='imagenet', allowed are A, B, D, E"):
        load_weights("imagenet", net="C")


def test_the_digest_is_checked(folder, model, monkeypatch):
    path = folder / "vgg16-397923af.pth"
    torch.save(model.state_dict(), path)
    with pytest.raises(InputError, match=r"vgg16-397923af\.pth is damaged: its SHA-256 begins"):
        load_weights("imagenet")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    right = path.rename(folder / f"vgg16-{digest[:8]}.pth")
    monkeypatch.setitem(imagenet.FILES, ("D", False), ("vgg16-00000000.pth", right.name))
    weights = load_weights("imagenet")
    assert (weights.net, weights.model.batch_norm) == ("D", False)
    assert torch.equal(weights.model.features[0].weight, model.features[0].weight)
