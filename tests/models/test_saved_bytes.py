"""What a training step of VGG-D keeps for backward, counted through saved_tensors_hooks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vggfast
from vggfast.backends.eager import EagerBackend


def _bytes_kept(forward, x, parameters) -> int:
    """Bytes of the distinct storages that autograd saves, without the parameters'."""
    storages: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        storages[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        F.cross_entropy(forward(x), torch.zeros(len(x), dtype=torch.long, device=x.device))
    for p in parameters:
        storages.pop(p.untyped_storage()._cdata, None)
    return sum(storages.values())


@pytest.mark.parametrize(
    ("dtype", "most"),
    # float32's int64 pool indices weigh half as much beside its maps, so eager looks better there.
    [(torch.bfloat16, 0.50), (torch.float32, 0.51)],
    ids=str,
)
def test_a_step_keeps_half_of_eagers_bytes(dtype, most):
    # On the meta device the real graph is built, of real sizes, and nothing is computed.
    with torch.device("meta"):
        model = vggfast.vgg("D").to(dtype)
        x = torch.empty(4, 3, 224, 224, dtype=dtype)
    plain = nn.Sequential(
        nn.Sequential(*model.features),
        model.avgpool,
        nn.Flatten(),
        nn.Sequential(*model.classifier),
    )
    parameters = list(model.parameters())
    ours, eagers = (_bytes_kept(f, x, parameters) for f in (model, plain))
    print(
        f"{dtype}: {ours / 1e6:.1f} MB kept, eager keeps {eagers / 1e6:.1f} MB: {ours / eagers:.1%}"
    )
    assert ours <= most * eagers


def test_the_count_is_the_same_on_a_real_device():
    model = vggfast.vgg("A", num_classes=10, crop=32)
    x = torch.randn(2, 3, 32, 32)
    real = _bytes_kept(model, x, model.parameters())
    meta = model.to("meta")
    assert real == _bytes_kept(meta, x.to("meta"), meta.parameters())


def test_chains_keep_what_layers_apart_keep(monkeypatch):
    with torch.device("meta"):
        model = vggfast.vgg("D").to(torch.bfloat16)
        x = torch.empty(4, 3, 224, 224, dtype=torch.bfloat16)
    apart = _bytes_kept(model, x, model.parameters())
    chained = []
    monkeypatch.setattr(EagerBackend, "fuses_chains", True)
    real = torch.ops.vggfast.conv3x3_chain
    monkeypatch.setattr("vggfast.ops.chain._OP", lambda *a: chained.append(a) or real(*a))
    assert _bytes_kept(model, x, model.parameters()) == apart
    assert len(chained) == 1
