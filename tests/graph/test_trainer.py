"""``--graph`` in the training loop, on a CPU with a stand-in for the graph (fakes.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import fakes
import pytest
import torch
from torch import nn

from vggfast.data import load
from vggfast.engine import step as one
from vggfast.engine.output import Output
from vggfast.engine.progress import choose
from vggfast.engine.settings import Settings
from vggfast.engine.trainer import Trainer
from vggfast.graph import record
from vggfast.graph.step import CapturedStep

pytest.importorskip("sklearn")


def tiny() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Dropout(0.5), nn.Linear(16, 10),
    )  # fmt: skip


def test_whole_batches_replay_and_the_last_part_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of 5 images in batches of 2 give the losses and weights of the plain loop."""
    monkeypatch.setattr(record, "record", fakes.record)
    monkeypatch.setattr(one, "capture_step", CapturedStep)  # without the check for a GPU
    # A rate that float32 holds exactly, as the graph does.
    settings = Settings.make(
        {"net": "A", "epochs": 2, "batch": 2, "limit": 5, "lr": 2**-7, "device": "cpu"}
    )
    data = load("digits", size=32, scale=settings.scales, flip=None, limit=5)
    data = replace(data, val=data.train)
    found: list[Any] = []
    for graph in (False, True):
        object.__setattr__(settings, "graph", graph)
        torch.manual_seed(1)
        out = Output(None, settings)
        trainer = Trainer(settings, data, tiny(), out, choose(False))  # type: ignore[arg-type]
        trainer.run()
        rows = [(r.train_loss, r.train_accuracy, r.val_loss) for r in trainer.history]
        found.append((rows, [p.detach() for p in trainer.model.parameters()]))
        assert (trainer.step.captured is not None) == graph
    assert found[0][0] == found[1][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
