"""Whole-network times: inference at each batch, and a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggfast
from harness.clock import Clock
from harness.contest import OURS, Contender, Outcome, Rounds, contest
from harness.layers import FUSED, NCHW, NHWC, QUICK
from harness.nets import PlainVGG, cudnn_fused
from harness.options import Options

COMPILED = "torch.compile"
CLASSES = 1000
Step = Callable[[], object]


@dataclass(frozen=True)
class NetworkResult:
    """Times of one network at one batch. ``flop`` counts the whole call."""

    kind: str  # "inference" or "training"
    batch: int
    flop: int
    outcome: Outcome

    def images_per_s(self, name: str) -> float:
        return self.batch / self.outcome.times[name].median

    def tflops(self, name: str) -> float:
        return self.flop / self.outcome.times[name].median / 1e12

    def as_dict(self) -> dict[str, object]:
        times, best = self.outcome.times, self.outcome.best()
        return {
            "kind": self.kind, "batch": self.batch, "gflop": self.flop / 1e9,
            "times": {name: s.as_dict() for name, s in times.items()},
            "images_per_s": {name: self.images_per_s(name) for name in times},
            "tflops": {name: self.tflops(name) for name in times},
            "best_baseline": best[0] if best else None,
            "ratio": best[1] if best else None,
            "skipped": self.outcome.skipped,
        }  # fmt: skip


def inference_flop(options: Options) -> int:
    """Operations of one image's forward pass."""
    return sum(layer.flop for layer in options.layers())


def training_flop(options: Options) -> int:
    """Operations of one image's step: forward, dgrad and wgrad, but no dgrad of the first layer."""
    return 3 * inference_flop(options) - options.layers()[0].flop


def build(options: Options) -> vggfast.VGG:
    """Our network with fresh weights in fp32, on the device."""
    torch.manual_seed(options.seed)
    model = vggfast.vgg(
        options.net, num_classes=CLASSES, crop=options.crop, backend=options.backend
    )
    return model.to(options.device)


def infer(
    model: vggfast.VGG,
    batch: int,
    options: Options,
    clock: Clock,
    rounds: Rounds,
    compiled: str | None,
    tick: Callable[[str], None],
) -> NetworkResult:
    """Time inference in the run's dtype; ``compiled`` says why torch.compile is left out, if so."""
    model.to(options.dtype)
    state = {k: v.detach() for k, v in model.state_dict().items()}
    shape = (batch, 3, options.size, options.size)
    x = torch.randn(shape, device=options.device).to(options.dtype)
    last = x.contiguous(memory_format=torch.channels_last)
    nhwc = PlainVGG(options.net, state, options.crop, channels_last=True).eval()
    contenders = [
        Contender(OURS, _forward(model.eval(), last)),
        Contender(NHWC, _forward(nhwc, last)),
    ]
    if options.quick:
        contenders.append(Contender(NCHW, None, QUICK))
    else:
        nchw = PlainVGG(options.net, state, options.crop, channels_last=False).eval()
        contenders.append(Contender(NCHW, _forward(nchw, x)))
    if options.on_gpu:
        contenders.append(Contender(FUSED, _forward(cudnn_fused(nhwc), last)))
    work = _forward(_compiled(nhwc, options), last) if compiled is None else None
    contenders.append(Contender(COMPILED, work, compiled))
    outcome = contest(contenders, clock, rounds, tick)
    if compiled is None:
        torch._dynamo.reset()  # else the compiled code keeps its weights to the end of the run
    return NetworkResult("inference", batch, batch * inference_flop(options), outcome)


def train(
    model: vggfast.VGG,
    batch: int,
    options: Options,
    clock: Clock,
    rounds: Rounds,
    compiled: str | None,
    tick: Callable[[str], None],
) -> NetworkResult:
    """Time a step: forward, cross-entropy, backward, SGD with momentum.

    With a lower dtype, forward and loss run under autocast, as ``vggfast.train`` and torch's
    users do; the weights stay fp32.
    """
    model.float()
    state = {k: v.detach() for k, v in model.state_dict().items()}
    shape = (batch, 3, options.size, options.size)
    x = torch.randn(shape, device=options.device)
    last = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (batch,), device=options.device)
    nhwc = PlainVGG(options.net, state, options.crop, channels_last=True)
    contenders = [
        Contender(OURS, training_step(model.train(), last, labels, options)),
        Contender(NHWC, training_step(nhwc, last, labels, options)),
    ]
    if options.quick:
        contenders.append(Contender(NCHW, None, QUICK))
    else:
        nchw = PlainVGG(options.net, state, options.crop, channels_last=False)
        contenders.append(Contender(NCHW, training_step(nchw, x, labels, options)))
    if options.on_gpu:
        contenders.append(Contender(FUSED, None, "it has no backward"))
    work = training_step(
        nhwc, last, labels, options, torch.compile(nhwc) if compiled is None else None
    )
    contenders.append(Contender(COMPILED, work, compiled))
    outcome = contest(contenders, clock, rounds, tick)
    if compiled is None:
        torch._dynamo.reset()  # else the compiled code keeps its weights to the end of the run
    return NetworkResult("training", batch, batch * training_flop(options), outcome)


def _compiled(model: PlainVGG, options: Options) -> Callable[[Tensor], Tensor]:
    # Freezing packs the weights for the CPU's library once: what a CPU deployment would do.
    settings: dict[str, Any] | None = None if options.on_gpu else {"freezing": True}
    call: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False, options=settings)
    return call


def _forward(model: Callable[[Tensor], Tensor], x: Tensor) -> Step:
    def run() -> Tensor:
        with torch.no_grad():
            return model(x)

    return run


def training_step(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    options: Options,
    call: Callable[[Tensor], Tensor] | None = None,
) -> Step:
    """A training step: forward, cross-entropy, backward, fused SGD with momentum and weight decay.

    ``call`` is what runs the forward pass, if not ``model`` itself.
    """
    # A rate of 1e-4 keeps the loss finite on random labels: NaNs and denormals would change speed.
    optimiser = torch.optim.SGD(
        model.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=True
    )
    forward = model if call is None else call
    low = options.dtype != torch.float32

    def run() -> None:
        with torch.autocast(options.device.type, dtype=options.dtype, enabled=low):
            loss = F.cross_entropy(forward(x).float(), labels)
        loss.backward()
        optimiser.step()
        # At the end, not at the start: the contenders' gradients are never held all at once.
        optimiser.zero_grad(set_to_none=True)

    return run
