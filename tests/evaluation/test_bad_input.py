"""Every bad input: the command prints one line naming the argument and exits with 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vggfast
from vggfast.errors import InputError
from vggfast.evaluate import evaluate
from vggfast.evaluate.cli import main
from vggfast.evaluation.posteriors import POSTERIORS
from vggfast.weights import load_weights, save_weights

from .helpers import CLASSES, MEAN, STD, save_net

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--protocol", ["sliding", "", "Dense"]),
        ("--scales", ["31", "16,40", "a", "40;50", ""]),
        ("--part", ["test"]),
        ("--batch", ["0", "-1", "many"]),
        ("--dtype", ["int8"]),
        ("--device", ["tpu", "cuda:99"]),
        ("--backend", ["fastest"]),
        ("--threads", ["0"]),
        ("--workers", ["-1"]),
        ("--limit", ["0"]),
        ("--on-bad-image", ["ignore"]),
        ("--table", ["t.html"]),
    ],
)
def test_a_value_out_of_range(
    refused: Refused, net: Path, photos: Path, option: str, values: list[str]
) -> None:
    for value in values:
        line = refused("--weights", str(net), "--data", str(photos), f"{option}={value}")
        assert option.strip("-").replace("-", "_") in line.replace("-", "_")
        assert "allowed" in line or "invalid" in line


def test_scales_below_the_crop_name_it(refused: Refused, net: Path, photos: Path) -> None:
    line = refused("--weights", str(net), "--data", str(photos), "--scales", "40,20")
    assert "allowed are scales from 32 up" in line


def test_what_is_missing(refused: Refused, net: Path, photos: Path, tmp_path: Path) -> None:
    nothing = str(tmp_path / "none")
    assert f"weights: no file {nothing}" in refused("--weights", nothing, "--data", str(photos))
    assert "weights: no file" in refused("--weights", "", "--data", str(photos))
    assert f"weights: no file {nothing}" in refused(
        "--ensemble", str(net), nothing, "--data", str(photos)
    )
    assert "data: no folder" in refused("--weights", str(net), "--data", nothing)
    assert "data: got none" in refused("--weights", str(net))
    assert f"scores: no file {nothing}" in refused("--fuse", nothing)
    assert "--weights" in refused("--data", str(photos))
    assert "not allowed with" in refused("--weights", str(net), "--fuse", nothing)
    assert "--speed" in refused("--weights", str(net), "--speed", "9")


def test_files_that_are_no_networks(refused: Refused, net: Path, photos: Path) -> None:
    whole = net.read_bytes()
    for content in (b"", b"not a network", whole[: len(whole) // 2]):
        net.write_bytes(content)
        assert "weights: " in refused("--weights", str(net), "--data", str(photos))


def test_other_classes(refused: Refused, photos: Path, net: Path, tmp_path: Path) -> None:
    def refuse(classes: tuple[str, ...]) -> str:
        path = save_net(tmp_path / "other.safetensors", "A", 1, classes)
        # In an ensemble too, before anything is computed.
        return refused("--ensemble", str(net), str(path), "--data", str(photos))

    assert "class 1 is 'bee', not 'bat'" in refuse(("ant", "bat", "cat"))
    assert "class 0 is 'ant', not 'bee'" in refuse(("bee", "ant", "cat"))
    assert "3 classes, not 4: class 3, 'dog', is extra" in refuse((*CLASSES, "dog"))
    assert "3 classes, not 2: class 2, 'cat', is extra" in refuse(CLASSES[:2])


def test_a_bad_image(
    refused: Refused, net: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = next((photos / "val" / "bee").iterdir())
    bad.write_bytes(bad.read_bytes()[:60])
    common = ["--weights", str(net), "--data", str(photos), "--scales", "32"]
    for workers in ("0", "1"):
        assert f"bee/{bad.name}" in refused(*common, "--workers", workers)
    assert main([*common, "--on-bad-image", "skip"]) == 0
    printed = capsys.readouterr()
    assert f"bee/{bad.name}" in printed.err
    assert "1 images could not be read and are not counted" in printed.out
    for path in (photos / "val").rglob("*.png"):
        path.write_bytes(b"nothing")
    assert "none of the 7 images can be read" in refused(*common, "--on-bad-image", "skip")


def test_skipped_images_are_not_counted(net: Path, photos: Path, tmp_path: Path) -> None:
    options = {"weights": net, "data": photos, "scales": "32", "progress": False}
    before = evaluate(**options)  # type: ignore[arg-type]
    bad = sorted((photos / "val").rglob("*.png"))[3]
    bad.write_bytes(b"nothing")
    kept = tmp_path / "scores"
    for _ in range(2):  # computed, then read
        after = evaluate(**options, on_bad_image="skip", scores=kept)  # type: ignore[arg-type]
        assert before is not None
        assert after is not None
        assert (after.images, after.skipped, after.rows[0].top1.images) == (6, 1, 6)
        rest = [i for i in range(7) if i != 3]
        torch.testing.assert_close(
            after.scores[0].posteriors, before.scores[0].posteriors[rest], rtol=1e-5, atol=1e-6
        )


def test_scores_without_the_skipped_are_not_used_where_none_may_be(
    refused: Refused, net: Path, photos: Path, tmp_path: Path
) -> None:
    next((photos / "val").rglob("*.png")).write_bytes(b"nothing")
    common = ["--weights", str(net), "--data", str(photos), "--scales", "32"]
    common += ["--scores", str(tmp_path / "s")]
    assert main([*common, "--on-bad-image", "skip", "--quiet"]) == 0
    line = refused(*common)
    assert line.startswith("error: on_bad_image: got fail, but ")
    assert "without 1 images" in line


def test_options_that_fusing_does_not_use(refused: Refused, tmp_path: Path) -> None:
    for option, value in (("protocol", "dense"), ("scales", "32"), ("data", "digits")):
        line = refused("--fuse", str(tmp_path / "a.parquet"), f"--{option}={value}")
        assert line.startswith(f"error: {option}: got {value!r} with --fuse")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
            "batch: out of memory (CUDA out of",
        ),
        (MemoryError(), "batch: out of memory (nothing more is said"),
        (vggfast.LaunchError("conv of (1, 3) on cuda:0: no"), "conv of (1, 3) on cuda:0: no"),
    ],
    ids=["gpu", "host", "launch"],
)
def test_what_a_machine_cannot_do_is_one_line(
    error: Exception, told: str, net: Path, photos: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setitem(POSTERIORS, "dense", fail)
    code = 1 if isinstance(error, vggfast.LaunchError) else 2
    assert main(["--weights", str(net), "--data", str(photos), "--quiet"]) == code
    line = capsys.readouterr().err
    assert line.startswith(f"error: {told}")
    assert line.count("\n") == 1


def test_scores_of_something_else(
    refused: Refused, net: Path, photos: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "scores"
    common = ["--weights", str(net), "--scales", "32", "--scores", str(kept)]
    assert main([*common, "--data", str(photos), "--quiet"]) == 0
    (file,) = kept.iterdir()
    before = file.read_bytes()
    moved = photos.rename(photos.with_name("moved"))
    line = refused(*common, "--data", str(moved))
    assert "holds other scores (data: " in line
    assert "another folder" in line
    assert file.read_bytes() == before
    file.write_bytes(before[:200])
    assert "scores: cannot use" in refused(*common, "--data", str(photos.with_name("moved")))
    blocked = tmp_path / "file"
    blocked.write_text("a file")
    line = refused(*common[:-1], str(blocked), "--data", str(moved))
    assert "scores: cannot write" in line
    assert blocked.read_text() == "a file"


def test_a_network_of_nans(net: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = load_weights(net)
    torch.nn.init.constant_(weights.model.classifier[6].bias, float("nan"))
    save_weights(net, weights.model, classes=CLASSES, mean=MEAN, std=STD)
    assert main(["--weights", str(net), "--data", str(photos), "--quiet"]) == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert "not finite for image val/ant/0.png" in line


def test_python_callers_get_the_same_errors(net: Path, photos: Path) -> None:
    for name, value in (("batch", 2.0), ("workers", True), ("protocol", 3), ("scales", [31.5])):
        with pytest.raises(InputError, match=f"^{name}: "):
            evaluate(**{"weights": net, "data": photos, name: value})  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^weights: got none"):
        evaluate(weights=[], data=photos)


def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, refused: Refused, net: Path, photos: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    common = ["--weights", str(net), "--data", str(photos), "--scores", str(tmp_path / "s")]
    assert "pip install 'vggfast[train]'" in refused(*common)
    assert not (tmp_path / "s").exists()


def test_importing_evaluate_loads_no_extra() -> None:
    code = (
        "import sys, vggfast, vggfast.evaluate;"
        "print([m for m in ('PIL', 'rich', 'pyarrow', 'sklearn') if m in sys.modules])"
    )
    root = str(Path(vggfast.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
