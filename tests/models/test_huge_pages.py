"""FC layers ask for large pages, and are plain layers otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

import vggfast
from vggfast.models import huge_pages
from vggfast.weights import load_weights, save_weights

SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def flags_at(address: int) -> list[str]:
    """What Linux says of the mapping that holds ``address``."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError(f"no mapping holds {address:#x}")


@pytest.mark.skipif(not SWITCH.exists(), reason="this system has no transparent huge pages")
def test_the_weights_lie_where_large_pages_are_asked_for():
    model = vggfast.vgg("A", num_classes=10, crop=32)
    weight = model.classifier[3].weight
    assert "hg" in flags_at(weight.data_ptr() + weight.nbytes // 2)


@pytest.mark.skipif(not SWITCH.exists(), reason="this system has no transparent huge pages")
def test_what_is_asked_for_shows():
    """A fresh mapping has no such flag before."""
    whole = torch.empty(64 << 20)  # more than malloc keeps of what was freed
    there = whole.data_ptr() + whole.nbytes // 2
    assert "hg" not in flags_at(there)
    assert huge_pages.advise(whole)
    assert "hg" in flags_at(there)


@pytest.mark.skipif(not SWITCH.exists(), reason="this system has no transparent huge pages")
def test_so_do_weights_from_a_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    model = vggfast.vgg("A", num_classes=2, crop=32)
    save_weights(path, model, classes=["a", "b"], mean=[0.0] * 3, std=[1.0] * 3)
    weight = load_weights(path).model.classifier[3].weight
    assert "hg" in flags_at(weight.data_ptr() + weight.nbytes // 2)
    assert torch.equal(weight, model.classifier[3].weight)


def test_advice_is_for_large_tensors_on_the_cpu_only():
    assert not huge_pages.advise(torch.empty(huge_pages.LEAST_BYTES // 4 - 1))
    assert not huge_pages.advise(torch.empty(huge_pages.LEAST_BYTES, device="meta"))
    with FakeTensorMode():
        assert not huge_pages.advise(torch.empty(huge_pages.LEAST_BYTES))


def test_what_lies_beside_a_tensor_is_left_alone():
    whole = torch.arange(8 << 20, dtype=torch.float32)
    before = whole.clone()
    huge_pages.advise(whole[1000:-1000])
    assert torch.equal(whole, before)


def test_the_default_device_holds():
    with torch.device("meta"):
        model = vggfast.vgg("A", num_classes=10, crop=32)
    assert {p.device.type for p in model.parameters()} == {"meta"}


@pytest.mark.parametrize("init", ["kaiming", "glorot", "normal"])
def test_every_fc_layer_is_initialised(init):
    torch.manual_seed(0)
    with torch.random.fork_rng():
        model = vggfast.vgg("A", num_classes=10, crop=32, init=init)
    for i in (0, 3, 6):
        layer = model.classifier[i]
        assert torch.isfinite(layer.weight).all()
        assert not layer.bias.any()
        assert 0.001 < layer.weight.std() < 0.1
        assert layer.weight.mean().abs() < 1e-3
