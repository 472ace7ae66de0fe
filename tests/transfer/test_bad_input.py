"""Bad input of extraction: one line that names it, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vggfast
from tests.evaluation.helpers import CLASSES, MEAN, STD
from vggfast.features import extract
from vggfast.features.cli import main
from vggfast.weights import load_weights, save_weights

from .helpers import annotation, picture

Refused = Callable[..., str]


@pytest.fixture
def common(net: Path, photos: Path, tmp_path: Path) -> list[str]:
    argv = ["extract", "--weights", str(net), "--data", f"images:{photos}", "--device", "cpu"]
    return [*argv, "--out", str(tmp_path / "out"), "--scales", "32"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--layer", "relu9"], "layer: got 'relu9' of net A, allowed are conv1_1, relu1_1, pool1"),
        (["--combine", "sum"], "combine: got 'sum', allowed are average, stack"),
        (["--format", "npz"], "format: got 'npz', allowed are safetensors, parquet"),
        (["--scales", "30"], "scales: got '30', allowed are scales from 32 up"),
        (["--scales", "x"], "scales: got 'x'"),
        (["--shard-size", "0"], "shard_size: got 0, allowed are whole numbers from 1 up"),
        (["--region", "both"], "region: got 'both' for images without boxes"),
        (["--region", "all"], "region: got 'all', allowed are image, box, both"),
        (["--data", "voc2007:"], "data: got 'voc2007:'"),
        (["--part", "val"], "part: got 'val', allowed here are all"),
        (["--weights", "none"], "weights: no file none"),
        (["--speed", "9"], "unrecognized arguments: --speed 9"),
        (["--boxes", "none.csv"], "boxes: got 'none.csv', allowed are a file *.csv or *.json"),
    ],
)
def test_options(
    options: list[str], told: str, refused: Refused, common: list[str], tmp_path: Path
) -> None:
    assert told in refused(*common, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "image,left\n", "has no column 'top'"),
        ("a.csv", "image,left,top,right,bottom\n", "has none, allowed is one or more"),
        (
            "a.csv", "image,left,top,right,bottom\na/0.png,1,2,x,4\n",
            "boxes: got ['1', '2', 'x', '4'] for a/0.png in line 2 of",
        ),
        ("a.csv", "image,left,top,right,bottom\na/0.png,1,2\n", "allowed are four numbers"),
        (
            "a.csv", "image,left,top,right,bottom\na/0.png,5,2,5,9\n",
            "got (5, 2, 5, 9) for a/0.png in line 2",
        ),
        ("a.csv", "image,left,top,right,bottom\na/0.png,1,2,nan,9\n", "got (1, 2, nan, 9)"),
        ("a.csv", "image,left,top,right,bottom\na/0.png,0,0,9,9\n", "has none for image a/3.png"),
        ("a.csv", "left,top,right,bottom,image\n0,0,9,9\n", "names no image in line 2"),
        ("a.json", "{}", "holds a dict"),
        ("a.json", "[", "cannot read"),
        ("a.json", '[{"image": "a/0.png"}]', "entry 0 of"),
        ("a.json", '[{"image": "a/0.png", "box": [1, 2]}]', "got [1, 2] for a/0.png in entry 0"),
        (
            "a.json", f'[{{"image": "a/0.png", "box": [0, 0, 1{"0" * 400}, 9]}}]',
            "for a/0.png in entry 0",
        ),
    ],
)  # fmt: skip
def test_files_of_boxes(
    name: str, content: str, told: str, refused: Refused, common: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert told in refused(*common, "--boxes", str(path))


@pytest.mark.parametrize(
    ("box", "told"),
    [
        (
            (0, 0, 51, 20),
            "boxes: got (0, 0, 51, 20) for a/0.png, allowed are boxes inside its 50 x 40",
        ),
        ((-1, 0, 9, 9), "got (-1, 0, 9, 9) for a/0.png"),
        ((0, 0, 9, 40.5), "got (0, 0, 9, 40.5) for a/0.png"),
        ((3.1, 0, 3.4, 20), "allowed are sides of a pixel or more"),
        ((0, 0, 50, 2), "the longer up to 20 times the shorter"),
    ],
)
def test_boxes_that_do_not_fit_their_image(
    box: tuple[float, ...], told: str, refused: Refused, common: list[str], photos: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    names = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.png"))
    rows = [f"{name},0,0,20,20" for name in names[1:]]
    path = tmp_path / "boxes.csv"
    header = "image,left,top,right,bottom,note"
    path.write_text("\n".join([header, f"{names[0]},{','.join(map(str, box))},x", *rows]) + "\n")
    # Even where images that cannot be read are skipped.
    assert told in refused(*common, "--boxes", str(path), "--on-bad-image", "skip")


def test_boxes_of_other_images(
    refused: Refused, common: list[str], photos: Path, tmp_path: Path
) -> None:
    names = [p.relative_to(photos).as_posix() for p in photos.rglob("*.png")]
    rows = [f"{name},0,0,9,9" for name in [*names, "z/9.png"]]
    path = tmp_path / "boxes.csv"
    path.write_text("\n".join(["image,left,top,right,bottom", *rows]) + "\n")
    assert "has one for z/9.png, which is no image of the set" in refused(
        *common, "--boxes", str(path)
    )
    # Nor with fewer images; but the images that are left out may have boxes.
    assert "has one for z/9.png" in refused(*common, "--boxes", str(path), "--limit", "2")
    path.write_text("\n".join(["\ufeffimage,left,top,right,bottom", *rows[:-1]]) + "\n")
    assert main([*common, "--boxes", str(path), "--limit", "2", "--quiet"]) == 0
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no *.xml in" in refused(*common, "--boxes", str(empty))


def test_an_annotation_is_of_one_image(
    refused: Refused, common: list[str], photos: Path, tmp_path: Path
) -> None:
    """Its file names no folder."""
    for i in range(7):
        annotation(tmp_path / f"boxes/{i}.xml", ("thing", (1, 1, 20, 20), 0))
    picture(photos / "d" / "0.png")
    told = refused(*common, "--boxes", str(tmp_path / "boxes"))
    assert "has one annotation for a/0.png and d/0.png" in told


def test_a_network_of_nans(
    common: list[str], net: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    weights = load_weights(net)
    torch.nn.init.constant_(weights.model.classifier[3].bias, float("nan"))
    save_weights(net, weights.model, classes=CLASSES, mean=MEAN, std=STD)
    assert main([*common, "--quiet"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert "features that are not finite for image a/0.png" in line
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(torch.OutOfMemoryError("CUDA out of memory."), 2), (vggfast.LaunchError("conv: no"), 1)],
)
def test_what_a_machine_cannot_do_is_one_line(
    error: Exception, code: int, common: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("vggfast.transfer.extraction.mean_activations", fail)
    assert main([*common, "--quiet"]) == code
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_python_callers_get_the_same_errors(net: Path, photos: Path, tmp_path: Path) -> None:
    for name, value in (("batch", 2.0), ("workers", True), ("flips", 3), ("scales", [31.5])):
        with pytest.raises(vggfast.InputError, match=f"^{name}: "):
            extract(
                **{"weights": net, "data": f"images:{photos}", "out": tmp_path / "o", name: value}  # type: ignore[arg-type]
            )
    with pytest.raises(vggfast.InputError, match=r"^weights: got none"):
        extract(weights=[], data=f"images:{photos}", out=tmp_path / "o")


def test_importing_features_loads_no_extra() -> None:
    code = (
        "import sys, vggfast; vggfast.features, vggfast.transfer;"
        "print([m for m in ('PIL', 'rich', 'pyarrow', 'sklearn') if m in sys.modules])"
    )
    root = str(Path(vggfast.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
