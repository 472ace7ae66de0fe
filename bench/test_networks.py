"""pytest-benchmark: VGG-A and VGG-E at 224x224, inference and a training step, ours and torch.

The network's numerics are checked before anything is timed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from harness import endtoend, networks, numerics
from harness.clock import Finish
from harness.nets import PlainVGG
from harness.options import Options
from pytest_benchmark.fixture import BenchmarkFixture

ROUNDS = 5


@cache
def failed_checks(case: Options) -> list[numerics.Check]:
    return [c for c in endtoend.check_network(case) if not c.passed]


def build(case: Options, side: str) -> torch.nn.Module:
    model = networks.build(case)
    if side == "vggfast":
        return model
    state = {k: v.detach() for k, v in model.state_dict().items()}
    return PlainVGG(case.net, state, case.crop, channels_last=True)


@pytest.mark.parametrize("side", ["vggfast", "torch"])
@pytest.mark.parametrize("net", ["A", "E"])
def test_inference(
    benchmark: BenchmarkFixture, net: str, side: str, case: Options, finish: Finish
) -> None:
    case = replace(case, net=net)
    assert failed_checks(case) == []
    model = build(case, side).eval().to(case.dtype)
    x = torch.randn(1, 3, case.size, case.size, device=case.device).to(case.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    benchmark.group = f"VGG-{net} inference, batch 1"
    benchmark.extra_info.update(gflop=networks.inference_flop(case) / 1e9, dtype=case.dtype_name)
    with torch.no_grad():
        benchmark.pedantic(finish(lambda: model(x)), rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("side", ["vggfast", "torch"])
def test_training_step(
    benchmark: BenchmarkFixture, side: str, case: Options, finish: Finish
) -> None:
    """VGG-A: forward, cross-entropy, backward, SGD with momentum."""
    case = replace(case, net="A")
    assert failed_checks(case) == []
    batch = case.train_batch
    model = build(case, side).train()
    x = torch.randn(batch, 3, case.size, case.size, device=case.device)
    x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(networks.CLASSES, (batch,), device=case.device)
    work = networks.training_step(model, x, labels, case)
    benchmark.group = f"VGG-A training step, batch {batch}"
    benchmark.extra_info.update(
        gflop=batch * networks.training_flop(case) / 1e9, dtype=case.dtype_name
    )
    benchmark.pedantic(finish(work), rounds=ROUNDS, warmup_rounds=1)
