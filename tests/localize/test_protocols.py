"""Both test protocols against plain loops over images, scales, windows and boxes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.evaluation.helpers import MEAN, STD, plain, window_by_window
from vggfast.localization.protocols import central_boxes, likeliest_boxes
from vggfast.localization.readers import find
from vggfast.localize import evaluate
from vggfast.localize.cli import main
from vggfast.weights import load_weights, save_weights

from . import helpers
from .helpers import DIGITS, save_classifier, save_regressor
from .test_merging import loop

T = 0.6


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory, narrow: None) -> dict[str, Path]:
    """Regressors of both kinds, and two classifiers."""
    folder = tmp_path_factory.mktemp("nets")
    files = {name: folder / f"{name}.safetensors" for name in ("scr", "pcr", "one", "two")}
    save_regressor(files["scr"], "scr", seed=5)
    save_regressor(files["pcr"], "pcr", seed=6)
    save_classifier(files["one"], seed=7)
    save_classifier(files["two"], seed=8)
    return files


def normalised(pixels: Tensor) -> Tensor:
    x = (pixels.double() - torch.tensor(MEAN)) / torch.tensor(STD)
    return x.permute(0, 3, 1, 2)


def corners(numbers: Tensor, x: float, y: float, crop: int = 64) -> tuple[float, ...]:
    cx, cy, w, h = (numbers * crop / 2).tolist()
    cx, cy, w, h = cx + x + crop / 2, cy + y + crop / 2, max(w, 0), max(h, 0)
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def clipped(box: tuple[float, ...], width: float, height: float) -> list[float]:
    return [min(max(end, 0), side) for end, side in zip(box, (width, height) * 2, strict=True)]


@pytest.mark.parametrize("kinds", [("pcr",), ("scr",), ("scr", "pcr")])
def test_the_full_protocol(nets: dict[str, Path], kinds: tuple[str, ...]) -> None:
    """Two images of 60 x 50 at two scales, all networks in float64."""
    size, scaled = (60, 50), [(77, 64), (120, 100)]
    generator = torch.Generator().manual_seed(0)
    pixels = [
        torch.randint(0, 256, (2, h, w, 3), generator=generator, dtype=torch.uint8)
        for w, h in scaled
    ]
    regressors = [load_weights(nets[kind], boxes=True) for kind in kinds]
    classifiers = [load_weights(nets[name]) for name in ("one", "two")]
    with torch.inference_mode():
        posterior = torch.zeros(2, 10, dtype=torch.float64)
        places = []
        for images in pixels:
            x = normalised(images)
            both = [window_by_window(c.model, x, torch.float64) for c in classifiers]
            mirrored = [window_by_window(c.model, x.flip(-1), torch.float64) for c in classifiers]
            for maps in both + mirrored:
                posterior += maps.mean((2, 3)).softmax(1) / 8
            places.append(sum(m.softmax(1) for m in both) / 2)
        found_by = [
            [window_by_window(r.model, normalised(images), torch.float64) for r in regressors]
            for images in pixels
        ]
        for net in (*regressors, *classifiers):
            net.model.double()
        found = likeliest_boxes(
            regressors, classifiers, pixels, size, top=3, threshold=T, flips=True,
            dtype=torch.float64,
        )  # fmt: skip
    order = posterior.argsort(1, descending=True)[:, :3]
    assert torch.equal(found.classes, order)
    torch.testing.assert_close(found.probabilities, posterior.gather(1, order), atol=1e-6, rtol=0)
    for n in range(2):
        for k, label in enumerate(order[n].tolist()):
            boxes, scores = [], []
            for s, (width, height) in enumerate(scaled):
                for r, kind in enumerate(kinds):
                    maps, first = found_by[s][r][n], 4 * label if kind == "pcr" else 0
                    for i in range(maps.shape[1]):
                        for j in range(maps.shape[2]):
                            box = corners(maps[first : first + 4, i, j], 32 * j, 32 * i)
                            ratio = (size[0] / width, size[1] / height) * 2
                            boxes.append(tuple(e * q for e, q in zip(box, ratio, strict=True)))
                            scores.append(float(places[s][n, label, i, j]))
            left = loop(boxes, T)  # type: ignore[arg-type]
            best, of = max(left, key=lambda group: sum(scores[i] for i in group[1]))
            assert float(found.scores[n, k]) == pytest.approx(sum(scores[i] for i in of), rel=1e-5)
            expected = clipped(best, *size)
            np.testing.assert_allclose(found.boxes[n, k], expected, atol=1e-3)
    assert len(boxes) == len(kinds) * (1 + 2 * 2)  # places of both scales


def test_the_centre_protocol(nets: dict[str, Path]) -> None:
    """The true class's box, by the network on the crop in the middle."""
    pixels = torch.randint(0, 256, (3, 70, 97, 3), dtype=torch.uint8)
    labels = torch.tensor([4, 0, 9])
    weights = load_weights(nets["pcr"], boxes=True)
    features, classifier = plain(weights.model, torch.float64)
    with torch.inference_mode():
        found = central_boxes(weights, pixels, (194, 140), labels)
        x = normalised(pixels)[:, :, 3:67, 16:80]
        numbers = classifier(features(x).flatten(1))
    for box, row, label in zip(found, numbers, labels.tolist(), strict=True):
        ends = corners(row[4 * label : 4 * label + 4], 16, 3)
        expected = clipped(tuple(2 * e for e in ends), 194, 140)
        np.testing.assert_allclose(box, expected, atol=1e-2)


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_errors_are_counted(nets: dict[str, Path], canvases: Path, tmp_path: Path) -> None:
    """Of all images, by the boxes that the protocols' functions give one by one.

    Networks that learnt nothing find nothing: so the truth is moved to what they find, of every
    second image for the true class, of every third for the second likeliest.
    """
    image = pytest.importorskip("PIL.Image")
    data = find(f"imagenet:{canvases}", "val", DIGITS)
    weights, classifier = load_weights(nets["pcr"], boxes=True), load_weights(nets["one"])
    lines = ["image,part,class,x1,y1,x2,y2"]
    centre, full, first, classes, total = 0, 0, 0, 0, 0.0
    for i in range(len(data)):
        pixels = torch.from_numpy(np.array(image.open(data.source.place(i)).convert("RGB")))[None]
        label, truth = data.source.labels[i], data.boxes[i][0].tolist()
        with torch.inference_mode():
            found = likeliest_boxes(
                [weights], [classifier], [pixels], (64, 64), top=3, threshold=T, flips=False
            )
            if i % 3 == 0:
                label, truth = int(found.classes[0, 1]), found.boxes[0, 1].tolist()
            box = central_boxes(weights, pixels, (64, 64), torch.tensor([label]))[0].tolist()
        truth = [round(end) for end in (box if i % 2 == 0 else truth)]
        lines.append(f"{data.source.place(i)},val,{label},{','.join(map(str, truth))}")
        total += overlap(box, truth)
        centre += overlap(box, truth) <= 0.5
        named = [int(k) == label for k in found.classes[0]]
        right = [n and overlap(b.tolist(), truth) > 0.5 for n, b in
                 zip(named, found.boxes[0], strict=True)]  # fmt: skip
        full += not any(right)
        first += not right[0]
        classes += not any(named)
    table = tmp_path / "boxes.csv"
    table.write_text("\n".join(lines))
    common = {"data": f"boxes:{table}", "weights": nets["pcr"], "progress": False}
    one = evaluate(**common)  # type: ignore[arg-type]
    two = evaluate(
        **common, protocol="full", classifier=nets["one"], top=3, merge_threshold=T, flips=False,
        batch=3, workers=1,
    )  # type: ignore[arg-type]  # fmt: skip
    assert one is not None
    assert two is not None
    assert (one.row.error.errors, one.images) == (centre, 40)
    assert one.row.mean_iou == pytest.approx(total / 40, abs=1e-5)
    assert two.row.first is not None
    assert two.row.classes is not None
    counted = [rate.errors for rate in (two.row.error, two.row.first, two.row.classes)]
    assert counted == [full, first, classes]
    assert 0 < centre < 40  # else it would say little
    assert classes < full < first


def test_several_true_boxes(nets: dict[str, Path], tmp_path: Path) -> None:
    """A box of one class is right if it fits any of the true ones."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "a.png")
    weights = load_weights(nets["pcr"], boxes=True)
    with torch.inference_mode():
        every = central_boxes(
            weights, torch.from_numpy(pixels)[None].expand(10, -1, -1, -1), (64, 64),
            torch.arange(10),
        )  # fmt: skip
    label = int((every[:, 2:] - every[:, :2]).prod(1).argmax())
    ends = [round(end) for end in every[label].tolist()]
    assert min(ends[2] - ends[0], ends[3] - ends[1]) > 10  # so rounding keeps the IoU above 0.5
    table = tmp_path / "boxes.csv"
    head = "image,part,class,x1,y1,x2,y2\n"
    other = f"a.png,val,{label},0,0,1,1\n"
    own = f"a.png,val,{label},{','.join(map(str, ends))}\n"
    for lines, errors in ((other, 1), (other + own, 0)):
        table.write_text(head + lines)
        found = evaluate(weights=nets["pcr"], data=f"boxes:{table}", progress=False)
        assert found is not None
        assert (found.images, found.row.error.errors) == (1, errors)


def test_the_command(nets: dict[str, Path], canvases: Path, tmp_path: Path,
                     capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    argv = [
        "evaluate", "--data", f"imagenet:{canvases}", "--weights", str(nets["scr"]),
        str(nets["pcr"]), "--classifier", str(nets["one"]), "--protocol", "full", "--scales",
        "64,96", "--json", str(tmp_path / "r.json"), "--table", str(tmp_path / "r.csv"),
    ]  # fmt: skip
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "| A + A | scr + pcr | 64 | 64,96 | full |" in printed
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["images"] == 40
    assert record["row"]["error"]["images"] == 40
    assert record["row"]["scales"] == [64, 96]
    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert lines[1].startswith("A + A,scr + pcr,64,")
    fields = dict(zip(lines[0].split(","), csv.reader(lines[1:]).__next__(), strict=True))
    assert float(fields["error"]) == record["row"]["error"]["value"]


def test_bad_options(
    nets: dict[str, Path], canvases: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    data, boxes, one = f"imagenet:{canvases}", str(nets["pcr"]), str(nets["one"])
    base = ["evaluate", "--data", data, "--weights", boxes]
    full = [*base, "--protocol", "full", "--classifier", one]
    small = tmp_path / "small.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helpers, "DIGITS", DIGITS[:9])
        save_classifier(small)
    for argv, words in (
        ([*base, "--protocol", "dense"], "protocol: got 'dense', allowed are centre, full"),
        ([*base, "--protocol", "full"], "classifier: got none for the protocol full"),
        ([*base, "--classifier", one], "classifier: got one for the protocol centre"),
        ([*base, "--top", "3"], "top: got 3 for the protocol centre, which has no use for it"),
        ([*base, "--no-flips"], "flips: got False for the protocol centre"),
        ([*base, "--merge-threshold", "0.3"], "merge_threshold: got 0.3 for the protocol centre"),
        ([*base, "--scales", "64,96"], "scales: got 64,96 for the protocol centre"),
        ([*base, "--scales", "40"], "allowed are scales from 64 up"),
        ([*base, boxes], "got 2 files for the protocol centre"),
        ([*full, "--top", "0"], "top: got 0"),
        ([*full, "--merge-threshold", "-1"], "merge_threshold: got -1.0"),
        ([*full, "--classifier", boxes], "holds a network that localises"),
        ([*full, "--classifier", str(small)], "differ: 9 classes, not 10"),
        ([*base[:3], "--weights", one], "holds a network that classifies"),
        ([*base[:3], "--weights", "gone"], "no file gone"),
        (["evaluate", "--weights", boxes], "required: --data"),
        ([], "required: train|evaluate|predict"),
    ):
        assert words in refused(*argv), argv


def test_images_that_cannot_be_read(
    nets: dict[str, Path], tmp_path: Path, refused: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    table = tmp_path / "boxes.csv"
    table.write_text("image,part,class,x1,y1,x2,y2\nb.png,val,1,0,0,9,9\na.png,val,1,0,0,9,9\n")
    base = ["evaluate", "--data", f"boxes:{table}", "--weights", str(nets["pcr"])]
    assert "cannot read image" in refused(*base, "--quiet")
    assert main([*base, "--on-bad-image", "skip"]) == 0
    printed = capsys.readouterr()
    assert "1 images could not be used" in printed.out
    assert "b.png" in printed.err
    table.write_text("image,part,class,x1,y1,x2,y2\na.png,val,1,0,0,65,9\n")
    assert "leaves the image of 64 x 64" in refused(*base, "--quiet")
    table.write_text("image,part,class,x1,y1,x2,y2\na.png,val,1,0,0,65,9\na.png,val,2,0,0,9,9\n")
    assert main([*base, "--on-bad-image", "skip"]) == 0
    assert "a.png has; allowed are boxes inside" in capsys.readouterr().err
    table.write_text("image,part,class,x1,y1,x2,y2\nb.png,val,1,0,0,65,9\n")
    assert "none of the images can be read" in refused(*base, "--quiet", "--on-bad-image", "skip")


def test_boxes_that_are_not_finite(
    nets: dict[str, Path], canvases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_weights(nets["pcr"], boxes=True)
    with torch.no_grad():
        weights.model.classifier[-1].bias[:] = torch.nan
    bad = tmp_path / "bad.safetensors"
    save_weights(bad, weights.model, classes=DIGITS, mean=MEAN, std=STD, scale=(64, 64))
    base = ["evaluate", "--data", f"imagenet:{canvases}", "--weights", str(bad), "--quiet"]
    assert main(base) == 1
    assert "not finite: " in (said := capsys.readouterr().err)
    assert said.strip().endswith(".png")
    assert main([*base, "--protocol", "full", "--classifier", str(nets["one"])]) == 1


def test_one_place_that_is_not_finite(nets: dict[str, Path]) -> None:
    """Shows, though the best box is merged from others; the other image keeps its boxes."""
    weights, classifier = load_weights(nets["pcr"], boxes=True), load_weights(nets["one"])
    pixels = torch.randint(0, 256, (2, 128, 128, 3), dtype=torch.uint8)

    def spoil(_: object, rows: tuple[Tensor]) -> Tensor:  # (places of both images, units)
        (x,) = rows
        x[4] = torch.inf
        return x

    def found() -> Tensor:
        with torch.no_grad():
            return likeliest_boxes(
                [weights], [classifier], [pixels], (128, 128), top=2, threshold=T, flips=False
            ).boxes

    whole = found()
    assert whole.isfinite().all()
    weights.model.classifier[-1].register_forward_pre_hook(spoil)
    spoilt = found()
    assert spoilt[0].isnan().all()
    torch.testing.assert_close(spoilt[1], whole[1], atol=1e-2, rtol=0)
