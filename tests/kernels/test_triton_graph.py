"""The kernels in CUDA graphs: nothing waits for the GPU, held weights are read, replays are right.

Most of it needs a GPU. What does not runs in the interpreter, with a stand-in for the graph.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from triton_cases import GPU, maps, weights
from vggfast.kernels import kept, ops

import vggfast
from vggfast import InputError
from vggfast.graph import record
from vggfast.graph.inference import CapturedModel
from vggfast.nn import FusedSequential

needs_gpu = pytest.mark.skipif(not GPU, reason="captures a CUDA graph, which needs a GPU")
WAITS = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__",
         "__index__")  # fmt: skip


@contextmanager
def no_waiting() -> Iterator[None]:
    """What reads a tensor on the host raises, unless the interpreter does: a GPU is waited for."""
    with pytest.MonkeyPatch.context() as patch:
        for name in WAITS:
            patch.setattr(torch.Tensor, name, _guarded(name, getattr(torch.Tensor, name)))
        patch.setattr(torch.cuda, "synchronize", _guarded("synchronize", torch.cuda.synchronize))
        yield


def _guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        while frame is not None:
            if "/triton/runtime/" in frame.f_code.co_filename:
                return real(*args, **kwargs)
            frame = frame.f_back  # type: ignore[assignment]
        raise AssertionError(f"{name} waits for the GPU")

    return guarded


def test_no_launch_waits(device: torch.device) -> None:
    x = maps((2, 5, 6, 7), torch.float32, device, seed=1)
    w, b = weights(9, 5, torch.float32, device, seed=1)
    for pool in (True, False):
        with no_waiting():
            y, codes = ops.conv3x3(x, w, b, True, pool, pool)
        grad = torch.ones_like(y)
        with no_waiting():
            ops.conv3x3_backward(grad, x, w, y, codes, (True, True, True))
    with no_waiting():
        y, codes = ops.maxpool2x2(x, True)
        assert codes is not None
        ops.maxpool2x2_backward(y, codes, 6, 7)
        kept.Held([w]).refresh(force=True)


def test_no_op_waits(device: torch.device) -> None:
    """Through autograd and the modules too: a small network, forward and backward."""
    model, x = net(device), maps((2, 3, 4, 4), torch.float32, device, seed=2)
    with no_waiting():
        model(x).sum().backward()


@pytest.mark.parametrize("name", [*WAITS, "synchronize"])
def test_waiting_is_noticed(name: str) -> None:
    t = torch.ones(())
    with no_waiting(), pytest.raises(AssertionError, match=f"{name} waits for the GPU"):
        torch.cuda.synchronize() if name == "synchronize" else getattr(t, name)()


def net(device: torch.device) -> FusedSequential:
    model = FusedSequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 5), backend="triton",
    )  # fmt: skip
    return model.to(device)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU a replay calls the model again, with the weights that are held."""
    if GPU:
        return

    class Replay:
        def __init__(self, run: Callable[[], Tensor]) -> None:
            self._run, self._held = run, kept._using.held
            self._y = run()

        def replay(self) -> None:
            with self._held.use():
                self._y.copy_(self._run())

    def stand_in(run: Callable[[], Tensor], device: torch.device) -> tuple[Replay, Tensor]:
        graph = Replay(run)
        return graph, graph._y

    monkeypatch.setattr(record, "record", stand_in)


def test_changed_weights_are_honoured(device: torch.device, recorded: None) -> None:
    model = net(device).eval()
    x = maps((2, 3, 4, 4), torch.float32, device, seed=3)
    captured = CapturedModel(model, x, True)
    assert captured._held.nbytes == 4 * 9 * 4 * 8  # the first layer's are read as they lie
    optimizer = torch.optim.SGD(model.parameters(), 0.5, fused=True)
    others = {k: torch.full_like(v, 0.01) for k, v in model.state_dict().items()}

    def step() -> None:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()

    changes: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "load_state_dict": lambda: model.load_state_dict(others),
        "a fused step": step,
        ".data, then clear_weights": lambda: (model[0].weight.data.mul_(-2),
                                              vggfast.clear_weights()),
        ".data, then refresh": lambda: (model[2].weight.data.mul_(-2), captured.refresh()),
    }  # fmt: skip
    for seed, (what, change) in enumerate(changes.items(), 4):
        change()
        x = maps((2, 3, 4, 4), torch.float32, device, seed=seed)
        y = captured(x)
        vggfast.clear_weights()  # for the eager call, which has not been told of the last change
        with torch.no_grad():
            assert torch.equal(y, model(x)), what


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [1, 5])
def test_inference_equals_the_eager_call(batch: int, dtype: torch.dtype) -> None:
    model = vggfast.vgg("A", num_classes=10, crop=32, batch_norm=batch == 5).cuda().to(dtype).eval()
    xs = [torch.randn(batch, 3, 32, 32, device="cuda", dtype=dtype) for _ in range(3)]
    captured = vggfast.capture(model, xs[0])
    with torch.no_grad():
        for x in xs:
            assert torch.equal(captured(x), model(x))
        for p in model.parameters():
            p.mul_(1.125)
        assert torch.equal(captured(xs[1]), model(xs[1]))
        model.features[0].weight.data.zero_()
        captured.refresh()
        vggfast.clear_weights()
        assert torch.equal(captured(xs[1]), model(xs[1]))


@needs_gpu
def test_inference_under_autocast_casts_in_the_graph() -> None:
    model = vggfast.vgg("A", num_classes=10, crop=32).cuda().eval()
    x = torch.randn(2, 3, 32, 32, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        captured = vggfast.capture(model, x)
    for _ in range(2):
        with torch.no_grad():
            with torch.autocast("cuda", torch.bfloat16):
                expected = model(x)
            assert torch.equal(captured(x), expected)
            for p in model.parameters():
                p.mul_(1.125)


@needs_gpu
def test_streams_and_threads_take_turns() -> None:
    model = vggfast.vgg("A", num_classes=10, crop=32).cuda().eval()
    xs = [torch.randn(4, 3, 32, 32, device="cuda") for _ in range(4)]
    captured = vggfast.capture(model, xs[0])
    with torch.no_grad():
        expected = [model(x) for x in xs]
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                if not torch.equal(captured(xs[i]), expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@needs_gpu
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_captured_run_equals_an_eager_one(low: bool, batch_norm: bool) -> None:
    """Losses and parameters, step by step, with dropout, a change of the rate, and evaluation
    between the steps. The rates are powers of two: the graph reads them as float32."""
    torch.manual_seed(1)
    first = vggfast.vgg("A", num_classes=10, crop=32, batch_norm=batch_norm).cuda()
    second = copy.deepcopy(first)
    batches = [
        (torch.randn(8, 3, 32, 32, device="cuda"), torch.randint(10, (8,), device="cuda"))
        for _ in range(6)
    ]

    def loss_fn(output: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), y)

    def run(model: nn.Module, captured: bool) -> tuple[list[Tensor], Tensor]:
        optimizer = torch.optim.SGD(
            model.parameters(), 2**-6, momentum=0.9, weight_decay=5e-4, fused=True
        )
        model.train()
        torch.manual_seed(2)
        step = None
        if captured:
            before = {k: v.clone() for k, v in model.state_dict().items()}
            random = torch.cuda.get_rng_state()
            with torch.autocast("cuda", torch.bfloat16, enabled=low):
                step = vggfast.capture_step(model, loss_fn, optimizer, *batches[0])
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
            assert torch.equal(torch.cuda.get_rng_state(), random)
        seen: list[Tensor] = []
        for i, (x, y) in enumerate(batches):
            if i == 3:
                optimizer.param_groups[0]["lr"] = 2**-8
            if step is not None and i != 4:  # an ordinary step among the captured ones
                seen.append(step(x, y))
            else:
                optimizer.zero_grad()
                with torch.autocast("cuda", torch.bfloat16, enabled=low):
                    loss = loss_fn(model(x), y)
                loss.backward()
                optimizer.step()
                seen.append(loss.detach())
            model.eval()
            with torch.no_grad():
                seen += [model(x) for _ in range(3)]  # packed weights are kept, and must not stay
            model.train()
        return seen, torch.cat([p.detach().flatten() for p in model.parameters()])

    ours, theirs = run(first, True), run(second, False)
    for i, (a, b) in enumerate(zip(ours[0], theirs[0], strict=True)):
        assert torch.equal(a, b), i
    assert torch.equal(ours[1], theirs[1])


@needs_gpu
def test_training_with_a_graph_from_the_command_line(tmp_path: Any) -> None:
    result = vggfast.train.fit(
        net="A", data="digits", epochs=1, limit=70, batch=32, graph=True, device="cuda",
        out=tmp_path / "run", progress=False,
    )  # fmt: skip
    plain = vggfast.train.fit(
        net="A", data="digits", epochs=1, limit=70, batch=32, device="cuda", progress=False
    )
    a, b = result.history[0], plain.history[0]
    assert a.train_loss == pytest.approx(b.train_loss, rel=1e-3)


@needs_gpu
def test_refused_calls() -> None:
    model = vggfast.vgg("A", num_classes=10, crop=32).cuda().eval()
    captured = vggfast.capture(model, torch.randn(2, 3, 32, 32, device="cuda"))
    with pytest.raises(InputError, match=r"x: got shape \(3, 3, 32, 32\), allowed is \(2,"):
        captured(torch.randn(3, 3, 32, 32, device="cuda"))
    with pytest.raises(InputError, match="x: got device cpu"):
        captured(torch.randn(2, 3, 32, 32))
    model.half()
    with pytest.raises(InputError, match=r"features\.0\.weight moved"):
        captured(torch.randn(2, 3, 32, 32, device="cuda"))
