"""Per-layer times: fprop of each fused layer, and its dgrad and wgrad, against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import cases
from harness.cases import Function, Group
from harness.clock import Clock, Work
from harness.contest import OURS, Contender, Outcome, Rounds, contest
from harness.nets import cudnn_fused_layer
from harness.options import Options
from vggfast.configs import Layer

PASSES = ("fprop", "dgrad", "wgrad")
QUICK = "--quick times one layout, the one that is the faster as a rule"
NHWC, NCHW, FUSED = "torch channels_last", "torch NCHW", "cuDNN conv+bias+ReLU"


@dataclass(frozen=True)
class Row:
    """One pass of one group of equal layers at one batch."""

    group: Group
    batch: int
    kind: str  # of PASSES
    outcome: Outcome

    @property
    def flop(self) -> int:
        return self.group.layer.flop * self.batch

    def gflops(self, name: str) -> float:
        """GFLOP/s of a contender; 0 for a layer whose work is not counted (pool, LRN)."""
        return self.flop / self.outcome.times[name].median / 1e9

    def as_dict(self) -> dict[str, object]:
        times, layer = self.outcome.times, self.group.layer
        best = self.outcome.best()
        return {
            "layers": list(self.group.names), "op": layer.op, "c_in": layer.c_in,
            "c_out": layer.c_out, "h": layer.h, "w": layer.w, "pool": layer.pool,
            "times": {name: s.as_dict() for name, s in times.items()},
            "gflops": {name: self.gflops(name) for name in times},
            "best_baseline": best[0] if best else None,
            "ratio": best[1] if best else None,
            "skipped": self.outcome.skipped,
        }  # fmt: skip


def passes(options: Options) -> tuple[str, ...]:
    """All three on a GPU or with --layers; else a CPU's minutes go to networks first."""
    if options.inference_only:
        return PASSES[:1]
    return PASSES if options.on_gpu or options.layers_only else PASSES[:1]


def batches(options: Options) -> tuple[int, ...]:
    """Every batch of the run; with --quick the smallest alone, with --dtype e4m3 none."""
    if options.quantizes:
        return ()
    return options.batches[:1] if options.quick else options.batches


def applies(group: Group, kind: str) -> bool:
    """The first layer's input needs no gradient, and a layer without weights has no wgrad."""
    first = group.layer.name == "conv1_1"
    weightless = group.layer.op in ("lrn", "maxpool2x2")
    return not (kind == "dgrad" and first) and not (kind == "wgrad" and weightless)


def time_layer(
    group: Group,
    batch: int,
    kind: str,
    options: Options,
    clock: Clock,
    rounds: Rounds,
    tick: Callable[[str], None],
) -> Row:
    """Time one pass of a layer at its real size."""
    layer = group.layer
    args = cases.inputs(layer, batch, layer.h, layer.w, options.dtype, options.device, options.seed)
    mine = args
    if options.stores_bf16 and layer.op == "linear":
        mine = (args[0], args[1].bfloat16(), args[2])
    ours = Contender(OURS, _work(cases.ours(layer, options.backend), mine, kind))
    contenders = [ours, *_baselines(layer, args, kind, options)]
    outcome = contest(contenders, clock, rounds, tick)
    if layer.op not in ("conv3x3", "conv1x1") and NHWC in outcome.times:
        # Such a layer is one call, whatever the layout around it: it counts in every sum.
        for name in _layouts(kind, options):
            outcome.times.setdefault(name, outcome.times[NHWC])
    return Row(group, batch, kind, outcome)


def sums(rows: list[Row]) -> dict[str, float]:
    """Seconds of all layers together by contender, for those timed on every layer."""
    names = set.intersection(*(set(r.outcome.times) for r in rows)) if rows else set()
    return {
        name: sum(r.outcome.times[name].median * r.group.count for r in rows)
        for name in (rows[0].outcome.times if rows else ())
        if name in names
    }


def _layouts(kind: str, options: Options) -> list[str]:
    """The baselines that a convolution is timed against."""
    names = [NHWC] if options.quick else [NHWC, NCHW]
    return [*names, FUSED] if options.on_gpu and kind == "fprop" else names


def _baselines(
    layer: Layer, args: tuple[Tensor, ...], kind: str, options: Options
) -> list[Contender]:
    plain = cases.plain(layer)
    last = tuple(
        a.contiguous(memory_format=torch.channels_last) if a.dim() == 4 else a for a in args
    )
    found = [Contender(NHWC, _work(plain, last, kind))]
    if layer.op not in ("conv3x3", "conv1x1"):
        return found
    if options.quick:
        found.append(Contender(NCHW, None, QUICK))
    else:
        found.append(Contender(NCHW, _work(plain, tuple(a.contiguous() for a in args), kind)))
    if options.on_gpu and kind == "fprop":
        padding = 1 if layer.op == "conv3x3" else 0
        found.append(Contender(FUSED, _work(cudnn_fused_layer(layer.pool, padding), last, kind)))
    elif options.on_gpu:
        found.append(Contender(FUSED, None, "it has no backward"))
    return found


def _work(function: Function, args: tuple[Tensor, ...], kind: str) -> Work:
    """A call of the pass. A gradient's graph is built at the first call, of its own leaves only."""

    def forward() -> Tensor:
        with torch.no_grad():
            return function(*args)

    graph: list[tuple[Tensor, list[Tensor], Tensor]] = []

    def backward() -> tuple[Tensor, ...]:
        if not graph:
            leaves = [a.detach() for a in args]
            wanted = leaves[:1] if kind == "dgrad" else leaves[1:]
            for leaf in wanted:
                leaf.requires_grad_()
            y = function(*leaves)
            graph.append((y, wanted, torch.randn_like(y)))
        y, wanted, g = graph[0]
        return torch.autograd.grad(y, wanted, g, retain_graph=True)

    return forward if kind == "fprop" else backward
