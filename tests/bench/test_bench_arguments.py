"""Bad arguments: one line that names the argument, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from harness import layers, options, session
from harness.cli import main

from vggfast import configs
from vggfast.backends import cpu_conv

NO_GPU = not torch.cuda.is_available()
BAD = [
    (["--net", "F"], "--net: got 'F', allowed are A, A-LRN, B, C, D, E"),
    (["--net", "e"], "--net: got 'e'"),
    (["--batch", "-1"], "--batch: got '-1'"),
    (["--batch", "1,0"], "--batch: got '0'"),
    (["--batch", "1,,2"], "--batch: got ''"),
    (["--batch", "many"], "--batch: got 'many'"),
    (["--dtype", "int8"], "--dtype: got 'int8', allowed are fp32, bf16, fp16, e4m3"),
    (["--device", "tpu"], "--device: got 'tpu', allowed are cpu"),
    (["--backend", "mkl"], "--backend: got 'mkl', allowed are auto, eager"),
    (["--threads", "0"], "--threads: got '0', allowed are whole numbers from 1"),
    (["--threads", "2.5"], "--threads: got '2.5'"),
    (["--size", "31"], "--size: got '31', allowed are whole numbers from 32"),
    (["--seed", "-3"], "--seed: got '-3'"),
    (["--weights", "int8"], "--weights: got 'int8', allowed are fp32, bf16"),
    (
        ["--weights", "bf16", "--dtype", "bf16", "--device", "cpu"],
        "--dtype: got 'bf16' with --weights bf16, allowed is fp32",
    ),
    (
        ["--weights", "bf16", "--train-batch", "2", "--device", "cpu"],
        "--train-batch: got '2' with --weights bf16, allowed is none: nothing is trained then",
    ),
    (["--colour"], "unrecognized arguments: --colour"),
    (["--net"], "argument --net: expected one argument"),
]
if NO_GPU:
    BAD.append((["--device", "cuda"], "--device: got 'cuda', allowed are cpu; torch sees no GPU"))


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_argument(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*argv, "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not out.exists()


def test_unwritable_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    assert main(["--net", "A", "--out", str(file / "below")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: --out: got ")
    assert captured.err.count("\n") == 1
    assert file.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [file]


def test_a_forced_backend_that_cannot_serve_is_bad_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vggfast import backends

    monkeypatch.setattr(type(backends.get("triton")), "unavailable", lambda self: "no\nGPU")
    backends.clear_cache()
    try:
        assert main(["--net", "A", "--backend", "triton", "--out", str(tmp_path / "o")]) == 2
    finally:
        backends.clear_cache()
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--backend: got 'triton'" in captured.err
    assert "no GPU" in captured.err
    assert not (tmp_path / "o").exists()


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    for name in ("net", "batch", "dtype", "backend", "device", "threads", "layers", "train",
                 "no-train", "quick", "out", "size", "seed", "peers", "memory", "compare",
                 "train-batch", "exact", "weights"):  # fmt: skip
        assert f"--{name}" in text


def test_defaults_on_a_cpu(tmp_path: Path) -> None:
    o = options.parse(["--device", "cpu", "--out", str(tmp_path)])
    assert (o.net, o.dtype_name, o.batches, o.train_batch, o.size) == ("E", "fp32", (1, 8), 4, 224)
    assert o.layers() == configs.layers("E")


def test_weights_stored_in_bf16_are_for_inference(tmp_path: Path) -> None:
    argv = ["--device", "cpu", "--out", str(tmp_path)]
    assert not options.parse(argv).stores_bf16
    assert options.parse([*argv, "--weights", "fp32"]).train_batch > 0
    o = options.parse([*argv, "--weights", "bf16"])
    assert o.stores_bf16
    assert o.train_batch == 0
    both = options.parse([*argv, "--weights", "bf16", "--layers"])
    assert layers.passes(both) == ("fprop",)


def test_the_largest_batch_given_is_the_training_batch(tmp_path: Path) -> None:
    argv = ["--device", "cpu", "--batch", "3, 1,3", "--out", str(tmp_path)]
    o = options.parse(argv)
    assert (o.batches, o.train_batch) == ((1, 3), 3)
    assert options.parse([*argv, "--no-train"]).train_batch == 0
    assert options.parse([*argv, "--layers"]).train_batch == 0


@pytest.mark.parametrize(("size", "crop"), [(32, 32), (65, 64), (223, 192), (224, 224), (500, 224)])
def test_the_classifier_fits_small_inputs(size: int, crop: int, tmp_path: Path) -> None:
    o = options.parse(["--device", "cpu", "--size", str(size), "--out", str(tmp_path)])
    assert o.crop == crop
    assert o.layers()[-3].c_in == 512 * (crop // 32) ** 2


def test_exact_holds_for_the_run_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(
        session, "run", lambda *_: seen.append(cpu_conv.choose(8, 56, 56, 256, 256).name)
    )
    for argv in (["--exact"], []):
        assert main([*argv, "--net", "A", "--device", "cpu", "--out", str(tmp_path)]) == 0
    assert seen[0] == "direct"
    assert seen[1] != "direct"
