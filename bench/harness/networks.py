"""Whole-network times: inference at each batch, and a training step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vggfast
from harness import e4m3
from harness.clock import Clock
from harness.contest import GRAPH, OURS, Contender, Outcome, Rounds, contest, one_line
from harness.endtoend import spread_biases
from harness.layers import QUICK
from harness.numerics import Check
from harness.options import Options
from harness.oracle import Oracle, oracle
from harness.peers import Given, Peer, chosen
from harness.peers.ready import prepare
from harness.peers.torch_eager import laid_out, no_grad
from vggfast import reference

CLASSES = 1000
Step = Callable[[], object]


@dataclass(frozen=True)
class NetworkResult:
    """Times of one network at one batch. ``flop`` counts the whole call.

    ``facts``: version, dtype, layout, settings and checked error of each peer that was prepared.
    """

    kind: str  # "inference" or "training"
    batch: int
    flop: int
    outcome: Outcome
    facts: dict[str, dict[str, object]] = field(default_factory=dict)

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
            "paired": {name: p.as_dict() for name, p in self.outcome.paired.items()},
            "peers": self.facts,
            "skipped": self.outcome.skipped,
        }  # fmt: skip


def inference_flop(options: Options) -> int:
    """Operations of one image's forward pass."""
    return sum(layer.flop for layer in options.layers())


def training_flop(options: Options) -> int:
    """Operations of one image's step: forward, dgrad and wgrad, but no dgrad of the first layer."""
    return 3 * inference_flop(options) - options.layers()[0].flop


def build(options: Options) -> vggfast.VGG:
    """Our network with fresh weights in fp32, on the device; its biases are not zero."""
    torch.manual_seed(options.seed)
    model = vggfast.vgg(
        options.net, num_classes=CLASSES, crop=options.crop, backend=options.backend
    )
    spread_biases(model)
    return model.to(options.device)


def images(batch: int, options: Options, dtype: torch.dtype) -> Tensor:
    """The images of a job, NCHW; the same in every process."""
    g = torch.Generator(options.device).manual_seed(options.seed + batch)
    shape = (batch, 3, options.size, options.size)
    return torch.randn(shape, generator=g, device=options.device).to(dtype)


def labels(batch: int, options: Options) -> Tensor:
    """Random labels for a training step; the same in every process."""
    g = torch.Generator(options.device).manual_seed(options.seed)
    return torch.randint(CLASSES, (batch,), generator=g, device=options.device)


def given(model: vggfast.VGG, x: Tensor, options: Options) -> Given:
    """What the peers of a job get: of weights stored in bfloat16 the same values in x's dtype."""
    state = {k: v.detach().to(x.dtype) for k, v in model.state_dict().items()}
    patient = options.peers is not None
    return Given(options.net, options.crop, state, x, options.threads, patient)


def inference_form(model: vggfast.VGG, options: Options) -> nn.Module:
    """Give the model the run's dtype, or store its FC weights as the run does; what is timed."""
    if options.stores_bf16:
        return vggfast.store_weights(model.eval(), options.weights)
    model.to(options.dtype)
    return e4m3.quantized(model, options) if options.quantizes else model


def ours(model: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """Our forward pass."""
    return no_grad(model.eval(), laid_out(x, True))


def graphed(model: nn.Module, x: Tensor, known: Oracle) -> list[Contender]:
    """Ours as a CUDA graph, on a GPU at batch 1, where launches may take longer than kernels.

    A capture that fails is told in the table, and the rest is timed.

    Raises:
        RuntimeError: its logits are wrong.
    """
    if not x.is_cuda or len(x) != 1:
        return []
    x = laid_out(x, True)
    try:
        captured = vggfast.capture(model.eval(), x, clone=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return [Contender(GRAPH, None, one_line(error))]
    rel = known.errors(captured(x).float()).rel
    if not rel <= known.bound:  # a NaN is wrong too
        raise RuntimeError(f"{GRAPH}: error {rel:.2g} against float64, allowed {known.bound:.2g}")
    return [Contender(GRAPH, lambda: captured(x))]


def check(model: vggfast.VGG, batch: int, options: Options) -> tuple[Check, Oracle]:
    """Ours on the very call that will be timed; and what the peers will be held against."""
    run = inference_form(model, options)
    x = images(batch, options, options.dtype)
    found = oracle(model.state_dict(), x, options)
    y = ours(run, x)()
    if options.quantizes:
        return e4m3.check(run, y, x, found), found
    return found.check(y, batch, options.size), found


def rounding(batch: int, options: Options, known: Oracle) -> float:
    """How far rounding the weights moves the logits, in float64; ``known`` is of those rounded."""
    x = images(batch, options, options.dtype)
    exact = oracle(build(options).state_dict(), x, options)
    return reference.errors(known.logits, exact.logits).rel


def infer(
    model: vggfast.VGG,
    batch: int,
    options: Options,
    clock: Clock,
    rounds: Rounds,
    compiled: str | None,
    tick: Callable[[str], None],
    known: Oracle,
) -> NetworkResult:
    """Time inference in the run's dtype; ``compiled`` says why torch.compile is left out, if so."""
    run = inference_form(model, options)
    x = images(batch, options, options.dtype)
    peers = chosen(options.peers, on_gpu=options.on_gpu)
    found = prepare(
        peers, given(model, x, options), known, _left_out(options, rounds, compiled), tick
    )
    contenders = [
        Contender(OURS, ours(run, x)),
        *graphed(run, x, e4m3.held(run, x, known) if options.quantizes else known),
        *found.contenders,
    ]
    outcome = contest(contenders, clock, _rest(rounds, found.seconds), tick)
    _forget_compiled()
    flop = batch * inference_flop(options)
    return NetworkResult("inference", batch, flop, outcome, found.facts)


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
    x = images(batch, options, torch.float32)
    everyone = given(model, x, options)
    wanted = labels(batch, options)
    left_out = _left_out(options, rounds, compiled)
    contenders = [Contender(OURS, training_step(model.train(), laid_out(x, True), wanted, options))]
    for peer in chosen(options.peers, on_gpu=options.on_gpu):
        why = left_out(peer, 0.0) if peer.trains else "it does not train"
        why = why or peer.cannot(everyone)
        step = None
        if why is None:
            module, mine, forward = peer.trainee(everyone)
            step = training_step(module, mine, wanted, options, forward)
        contenders.append(Contender(peer.name, step, why))
    outcome = contest(contenders, clock, rounds, tick)
    _forget_compiled()
    return NetworkResult("training", batch, batch * training_flop(options), outcome)


def _forget_compiled() -> None:
    """Else compiled code keeps its weights to the end of the run."""
    if "torch._dynamo" in sys.modules:  # importing it takes seconds
        torch._dynamo.reset()


def _left_out(
    options: Options, rounds: Rounds, compiled: str | None
) -> Callable[[Peer, float], str | None]:
    """Why a peer that nobody asked for by name is left out, given the seconds spent so far."""

    def why(peer: Peer, spent: float) -> str | None:
        if options.peers is not None:
            return None
        if peer.key == "nchw" and options.quick:
            return QUICK
        if peer.key == "compile":
            return compiled
        if spent > 2 * rounds.seconds and peer.key != "channels_last":
            return f"the run's time limit: {spent:.0f} s went on preparing others"
        return None

    return why


def _rest(rounds: Rounds, spent: float) -> Rounds:
    """What preparing took is of the job's seconds, unless every peer was asked for."""
    if rounds.insist:
        return rounds
    return replace(rounds, seconds=max(rounds.seconds - spent, 0.25 * rounds.seconds))


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
