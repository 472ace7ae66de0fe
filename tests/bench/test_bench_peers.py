"""Other engines: checked before they are timed, and never dropped without a word."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from harness import networks, options, oracle, peers
from harness.cli import main
from harness.clock import CpuClock
from harness.contest import OURS, Rounds
from harness.peers import Given, Peer, Ready, base, ncnn_graph, onnx_graph
from harness.peers.ready import prepare

ONCE = Rounds(0.01, least=1, most=1, insist=True)


def parse(tmp_path: Path, *argv: str) -> options.Options:
    tiny = ["--net", "A", "--size", "32", "--batch", "2", "--device", "cpu"]
    return options.parse([*tiny, "--out", str(tmp_path), *argv])


def given(
    net: str = "A", size: int = 32, batch: int = 1, dtype: torch.dtype = torch.float32
) -> Given:
    o = options.Options(
        net, (batch,), 0, "fp32", torch.device("cpu"), "eager", False, 1, False, False, size, 5,
        None, Path("unused"), peers=(),
    )  # fmt: skip
    model = networks.build(o).to(dtype)
    return networks.given(model, networks.images(batch, o, dtype), o)


class Fake(Peer):
    """torch's own answer, changed."""

    key, name = "fake", "fake"
    factor: ClassVar[float] = 1.0

    def version(self) -> str:
        return "0"

    def prepare(self, given: Given) -> Ready:
        model = given.plain(channels_last=False).eval()
        with torch.no_grad():
            y = model(given.x) * self.factor
        return Ready(lambda: y, torch.Tensor.float, "fp32", "NCHW", "none")


class Wrong(Fake):
    name, factor = "wrong", 1.001


class NaN(Fake):
    name, factor = "nan", float("nan")


class Short(Fake):
    name = "short"

    def prepare(self, given: Given) -> Ready:
        ready = super().prepare(given)
        return Ready(lambda: ready.run()[:1], torch.Tensor.float, "fp32", "NCHW", "none")


class Broken(Fake):
    name = "broken"

    def prepare(self, given: Given) -> Ready:
        raise RuntimeError("no such engine\nmore")


class Missing(Fake):
    name, package, module = "missing", "an-engine", "no_module_of_this_name"


def test_who_is_wrong_broken_or_missing_is_named_and_not_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = [Fake(), Wrong(), NaN(), Short(), Broken(), Missing()]
    monkeypatch.setattr(networks, "chosen", lambda keys, on_gpu: everyone)
    o = parse(tmp_path, "--peers", "all")
    model = networks.build(o)
    check, known = networks.check(model, 2, o)
    assert check.passed
    r = networks.infer(model, 2, o, CpuClock(), ONCE, None, lambda text: None, known)
    assert set(r.outcome.times) == set(r.outcome.paired) | {OURS} == {OURS, "fake"}
    why = r.outcome.skipped
    assert why["wrong"].startswith("wrong: error 0.001 against float64, allowed 0.0001")
    assert why["nan"].startswith("wrong: error")
    assert why["short"].startswith("wrong: error inf")
    assert why["broken"] == "RuntimeError: no such engine"
    assert why["missing"] == "not installed: pip install an-engine (or -e .[peers])"
    assert r.facts["fake"]["version"] == "0"
    assert r.as_dict()["skipped"] == why


def test_ours_wrong_in_the_timed_call_stops_the_run(tmp_path: Path) -> None:
    o = parse(tmp_path)
    model = networks.build(o)
    check, known = networks.check(model, 2, o)
    assert known.rows == (0, 1)
    assert not known.check(known.logits * 1.001, 2, 32).passed
    assert check.what == "network"


def test_half_precision_weights_do_not_pass_for_fp32(tmp_path: Path) -> None:
    """The FC weights alone rounded to fp16, as some engines do unasked."""
    g = given("A", 64)
    o = parse(tmp_path, "--size", "64")
    known = oracle.oracle(g.state, g.x, o)
    rounded = {k: v.half().float() if "classifier" in k else v for k, v in g.state.items()}
    half = Given(g.net, g.crop, rounded, g.x, 1).plain(channels_last=False).eval()
    with torch.no_grad():
        assert known.errors(half(g.x)).rel > oracle.FP32
        assert known.errors(g.plain(channels_last=True).eval()(g.x)).rel < oracle.FP32 / 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("peer", peers.here(False), ids=lambda p: p.key)
def test_every_engine_here_gives_the_right_logits(
    peer: Peer, dtype: torch.dtype, tmp_path: Path
) -> None:
    g = given("A-LRN", 64, 2, dtype)
    why = peer.cannot(g)
    if why is not None:
        pytest.skip(f"{peer.name}: {why}")
    if peer.key == "compile":
        pytest.skip("torch.compile takes a compiler and a minute; bench/run.py checks it")
    known = oracle.oracle(g.state, g.x, parse(tmp_path, "--net", "A-LRN", "--size", "64"))
    found = prepare([peer], g, known, lambda peer, spent: None, lambda text: None)
    assert [c.cannot for c in found.contenders] == [None]
    assert found.contenders[0].work is not None
    facts = found.facts[peer.name]
    assert facts["version"]
    assert float(str(facts["error"])) < known.bound / 2
    if dtype == torch.float32:
        assert str(facts["dtype"]).startswith("fp32")


def test_a_peer_says_which_dtype_it_lacks() -> None:
    g = given(dtype=torch.bfloat16)
    ort = next(p for p in peers.EVERY if p.key == "onnxruntime")
    assert ort.cannot_dtype(g) == "its CPU kernels have no bf16 convolution"
    cudnn = next(p for p in peers.EVERY if p.key == "cudnn")
    assert cudnn.cannot(g) == "it is timed on cuda alone"


def test_a_map_that_onnx_cannot_pool_is_said() -> None:
    g = given()
    x = torch.zeros(1, 3, 500, 500)
    assert onnx_graph.cannot(g) is None
    assert onnx_graph.cannot(Given("A", 224, g.state, x, 1)) == (
        "ONNX has no pool from 15x15 to 7x7"
    )


def test_ncnn_reads_as_many_weights_as_it_is_told() -> None:
    g = given("C")
    plain = g.plain(channels_last=False)
    text = ncnn_graph.parameters(g, plain).splitlines()
    assert text[0] == "7767517"
    assert text[1] == f"{len(text) - 2} {len(text) - 2}"
    assert text[-1].split()[5] == ncnn_graph.OUTPUT
    told = [
        int(word[2:])
        for line in text
        for word in line.split()
        if word.startswith("6=" if line.startswith("Conv") else "2=")
        and line.startswith(("Conv", "Inner"))
    ]
    biases = sum(b.numel() for n, b in g.state.items() if n.endswith("bias"))
    size = sum(len(piece) for piece in ncnn_graph.weights(plain))
    assert size == 4 * (sum(told) + biases + len(told))


def test_fp32_keeps_every_value() -> None:
    x = torch.randn(2, 3, 4, 4).bfloat16().contiguous(memory_format=torch.channels_last)
    assert torch.equal(base.fp32(x), x.float())
    assert base.fp32(x).is_contiguous()


BAD = [
    (["--peers", "mxnet"], "--peers: got 'mxnet', allowed are all, none, channels_last, nchw"),
    (["--peers", "all,ncnn"], "--peers: got 'all'"),
    (["--compare", "cores"], "--compare: got 'cores', allowed are threads, isa"),
    (["--compare", "threads", "--threads", "1"], "--threads: got 1 with --compare threads"),
    (["--layers", "--memory"], "--layers: got it with --peers, --memory or --compare"),
    (["--train-batch", "0"], "--train-batch: got '0', allowed are whole numbers from 1"),
]


@pytest.mark.parametrize(("argv", "message"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_argument(
    argv: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, "--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_what_is_asked_for(tmp_path: Path) -> None:
    o = parse(tmp_path)
    assert (o.peers, o.memory, o.compare) == (None, False, ())
    o = parse(tmp_path, "--peers", "all", "--train-batch", "3")
    assert o.peers == tuple(k for k in peers.KEYS if k != "cudnn")
    assert (o.memory, o.train_batch) == (True, 3)
    o = parse(tmp_path, "--peers", "ncnn, nchw", "--compare", "isa")
    assert (o.peers, o.memory, o.compare) == (("ncnn", "nchw"), False, ("isa",))
    assert parse(tmp_path, "--peers", "none").peers == ()
    names = [p.key for p in peers.chosen(None, on_gpu=False)]
    assert names == ["channels_last", "nchw", "compile"]
