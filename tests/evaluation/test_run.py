"""Whole evaluations of small sets: what is averaged, kept, read again, written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vggfast.evaluate import Result, evaluate, fuse
from vggfast.evaluate.cli import main
from vggfast.evaluation import dense_posteriors, multicrop_posteriors
from vggfast.evaluation.fusion import fuse as average
from vggfast.evaluation.posteriors import POSTERIORS, PROTOCOLS
from vggfast.evaluation.run import _Evaluation
from vggfast.weights import load_weights

from .helpers import CLASSES, MEAN, STD, save_net

pytest.importorskip("pyarrow")
pil = pytest.importorskip("PIL.Image")

Q = 40  # the scale of most tests here


def run(weights: object, photos: Path, **options: object) -> Result:
    settings = {"scales": str(Q), "progress": False, **options}
    result = evaluate(weights=weights, data=photos, **settings)  # type: ignore[arg-type]
    assert result is not None
    return result


def posteriors(result: Result) -> Tensor:
    return average(result.scores)


def near(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def inputs(photos: Path, scale: int) -> list[Tensor]:
    """The pictures in order, as the network sees them, by Pillow and numpy alone."""
    found = []
    for path in sorted((photos / "val").rglob("*.png")):
        image = pil.open(path)
        factor = scale / min(image.size)
        size = tuple(round(side * factor) for side in image.size)
        pixels = np.asarray(image.resize(size, pil.Resampling.BILINEAR), np.float64)
        x = torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)[None]
        found.append(x.float())
    return found


@torch.inference_mode()
def test_scores_are_those_of_each_picture_alone(net: Path, photos: Path) -> None:
    model = load_weights(net).model
    both = run(net, photos, protocol="both")
    assert [s.source.protocol for s in both.scores] == ["dense", "multicrop"]
    for scores, function in zip(both.scores, (dense_posteriors, multicrop_posteriors), strict=True):
        near(scores.posteriors, torch.cat([function(model, x) for x in inputs(photos, Q)]))
        paths = sorted((photos / "val").rglob("*.png"))
        assert [Path(n).name for n in scores.names] == [p.name for p in paths]
        assert scores.labels.tolist() == [CLASSES.index(p.parent.name) for p in paths]
    assert (both.images, both.skipped) == (7, 0)


def test_both_is_the_mean_of_the_two(net: Path, photos: Path) -> None:
    one, two, both = (run(net, photos, protocol=p) for p in ("dense", "multicrop", "both"))
    near(posteriors(both), (posteriors(one) + posteriors(two)) / 2)
    assert (posteriors(one) - posteriors(two)).abs().max() > 1e-4
    assert [r.protocol for r in both.rows] == ["dense", "multicrop", "both"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_several_scales_are_their_mean_and_one_is_itself(
    net: Path, photos: Path, protocol: str
) -> None:
    alone = {q: run(net, photos, protocol=protocol, scales=[q]) for q in (32, 47)}
    together = run(net, photos, protocol=protocol, scales="47,32")
    near(posteriors(together), (posteriors(alone[32]) + posteriors(alone[47])) / 2)
    assert [r.scales for r in together.rows] == [(32,), (47,), (32, 47)]
    again = run(net, photos, protocol=protocol, scales="47,47")
    assert torch.equal(posteriors(again), posteriors(alone[47]))
    assert again.rows == alone[47].rows


def test_an_ensemble_is_the_mean_of_its_networks(net: Path, other: Path, photos: Path) -> None:
    a, b = run(net, photos), run(other, photos)
    ensemble = run([net, other], photos)
    near(posteriors(ensemble), (posteriors(a) + posteriors(b)) / 2)
    assert [r.net for r in ensemble.rows] == ["A", "B", "A + B"]


def test_an_ensemble_of_a_network_with_itself_changes_nothing(
    net: Path, photos: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(net.read_bytes())
    alone, ensemble = run(net, photos), run([net, copy, net], photos)
    assert torch.equal(posteriors(ensemble), posteriors(alone))
    assert ensemble.rows == alone.rows


def test_a_mirrored_set_scores_alike(net: Path, photos: Path) -> None:
    before = run(net, photos, scales="32,40", protocol="both")
    without = run(net, photos, flips=False)
    for path in (photos / "val").rglob("*.png"):
        image = pil.open(path).transpose(pil.Transpose.FLIP_LEFT_RIGHT)
        image.resize((40, 40)).save(path)
    square = run(net, photos, scales="32,40", protocol="both")
    for path in (photos / "val").rglob("*.png"):
        pil.open(path).transpose(pil.Transpose.FLIP_LEFT_RIGHT).save(path)
    near(posteriors(run(net, photos, scales="32,40", protocol="both")), posteriors(square))
    assert (posteriors(before) - posteriors(square)).abs().max() > 1e-4  # the files did change
    mirrored = run(net, photos, flips=False)
    assert (posteriors(without) - posteriors(mirrored)).abs().max() > 1e-4


def test_digits_are_not_mirrored(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    net = save_net(tmp_path / "d.safetensors", "A", 3, tuple("0123456789"))

    def scores(**options: object) -> Tensor:
        return posteriors(run(net, Path("digits"), scales="32", limit=12, **options))

    assert torch.equal(scores(), scores(flips=False))
    assert (scores() - scores(flips=True)).abs().max() > 1e-5


def test_score_files_are_used_again(
    net: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "scores"
    first = run(net, photos, protocol="both", scales="32,40", scores=kept)
    assert len(list(kept.iterdir())) == 4
    computed: list[tuple[int, list[str]]] = []
    real = _Evaluation._compute

    def compute(self: _Evaluation, net: Any, scale: int, protocols: list[str]) -> object:
        computed.append((scale, protocols))
        return real(self, net, scale, protocols)

    monkeypatch.setattr(_Evaluation, "_compute", compute)
    again = run(net, photos, protocol="both", scales="32,40", scores=kept)
    assert not computed
    assert again.rows == first.rows
    assert torch.equal(posteriors(again), posteriors(first))
    next(kept.glob("*multicrop-32*")).unlink()
    third = run(net, photos, protocol="both", scales="32,40,44", scores=kept)
    assert computed == [(32, ["multicrop"]), (44, ["dense", "multicrop"])]
    near(posteriors(run(net, photos, protocol="both", scales="32,40,44")), posteriors(third))


def test_fusing_files_is_running_the_ensemble(
    net: Path, other: Path, photos: Path, tmp_path: Path
) -> None:
    options = {"protocol": "both", "scales": "32,40"}
    for path in (net, other):
        run(path, photos, scores=tmp_path / "scores", **options)
    fused = fuse(sorted((tmp_path / "scores").iterdir()))
    ensemble = run([net, other], photos, **options)
    near(posteriors(fused), posteriors(ensemble))
    assert fused.rows[-1].top1 == ensemble.rows[-1].top1
    assert sorted(map(repr, fused.rows[:-3])) == sorted(map(repr, ensemble.rows[:-3]))


def test_what_is_made_of_weights_can_be_kept(
    net: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packed weights are kept by version counters, which tensors of inference_mode lack."""
    seen: list[tuple[bool, bool]] = []

    def spy(model: torch.nn.Module, x: Tensor, **options: Any) -> Tensor:
        seen.append((torch.is_grad_enabled(), any(p.is_inference() for p in model.parameters())))
        return dense_posteriors(model, x, **options)  # type: ignore[arg-type]

    monkeypatch.setitem(POSTERIORS, "dense", spy)
    run(net, photos)
    assert set(seen) == {(False, False)}


def test_batches_of_any_size_and_workers(net: Path, photos: Path) -> None:
    wanted = posteriors(run(net, photos, protocol="both"))
    for options in ({"batch": 1}, {"batch": 5}, {"workers": 2}):
        near(posteriors(run(net, photos, protocol="both", **options)), wanted)


def test_part_and_limit(net: Path, photos: Path) -> None:
    assert run(net, photos, limit=3).images == 3
    training, validation = run(net, photos, part="train"), run(net, photos)
    assert (posteriors(training) - posteriors(validation)).abs().max() > 1e-4


def test_half_precision(net: Path, photos: Path) -> None:
    wide, half = (posteriors(run(net, photos, dtype=d)) for d in ("fp32", "bf16"))
    assert 0 < (wide - half).abs().max() < 0.05


def test_the_command_writes_table_and_json(
    net: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, written = tmp_path / "t.md", tmp_path / "r.json"
    argv = ["--weights", str(net), "--data", str(photos), "--protocol", "both"]
    assert main([*argv, "--table", str(table), "--json", str(written)]) == 0
    printed = capsys.readouterr()
    assert printed.out == table.read_text()
    assert "images/s" in printed.err
    about = json.loads(written.read_text())
    assert about["images"] == 7
    assert [r["scales"] for r in about["rows"]] == [[32], [37], [42], [32, 37, 42]] * 2 + [
        [32, 37, 42]
    ]
    rate = about["rows"][-1]["top1"]
    assert rate["value"] == rate["errors"] / 7
    assert about["sources"][0]["net"] == "A"


def test_the_command_fuses(
    net: Path, other: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", str(photos), "--scales", "one", "--scores", str(tmp_path / "s")]
    assert main(["--ensemble", str(net), str(other), *common]) == 0
    ensemble = capsys.readouterr().out
    found = sorted(map(str, (tmp_path / "s").iterdir()))
    assert main(["--fuse", *found]) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(ensemble.splitlines())
