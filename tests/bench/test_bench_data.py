"""bench/data.py: a small run from end to end, its record, and bad arguments."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("skimage")

import data as command
from harness import photographs, pipelines

from vggfast.data import Batches, load


def test_a_small_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "CASES", (("small", (100, 75), (40, 50)),))
    monkeypatch.setattr(command, "SIZE", 32)
    out = tmp_path / "figures.json"
    argv = ["--images", "8", "--rounds", "2", "--workers", "0", "--out", str(out)]
    assert command.main(argv) == 0
    rows = {row["contender"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["vggfast"]["images_per_second"]["median"] > 0
    assert rows["vggfast"]["seconds"]["n"] == 2
    assert rows["Pillow and torch"]["speedup"]["n"] == 2
    assert "seconds" in rows["torchvision"] or "torchvision" in rows["torchvision"]["skipped"]
    assert "Pillow and torch" in capsys.readouterr().out


def test_both_pipelines_give_crops_of_the_same_images(tmp_path):
    photographs.write(tmp_path, 4, (100, 75))
    data = load(str(tmp_path), size=32, scale=(40, 50), rgb_shift="imagenet")
    plain = pipelines.Plain(tmp_path, 32, (40, 50))
    assert len(data.train) == len(data.val) == len(plain) == 4
    for i in range(4):
        ((ours, _),) = [(x, y) for x, y in Batches(data.train, 1, shuffle=False).epoch(0, i)][:1]
        theirs, label = plain[i]
        assert ours[0].shape == theirs.shape == (3, 32, 32)
        assert label == data.train.read([(i, 0)]).labels.item() == i
        # Other crops and shifts of the same picture, normalised: near in colour.
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (pipelines.MEAN, pipelines.STD))
        own, own_std = (torch.tensor(v).view(3, 1, 1) for v in (data.mean, data.std))
        difference = (theirs * std + mean) - (ours[0] * own_std + own)
        assert difference.mean().abs() < 60


@pytest.mark.parametrize(
    ("argv", "message"),
    [(["--images", "3"], "--images: got 3"), (["--rounds", "0"], "--rounds: got 0"),
     (["--workers", "-1"], "--workers: got -1"), (["--speed"], "--help"),
     (["--out", "/nowhere/x.json"], "folder does not exist")],
)  # fmt: skip
def test_bad_arguments(argv, message, capsys):
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
