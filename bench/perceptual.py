"""Time a perceptual loss, forward and backward to the image, against the same loop in plain torch.

    python bench/perceptual.py                   # the losses of docs/examples/style_transfer.py
    python bench/perceptual.py --mode transfer --pool max --net D
    python bench/perceptual.py --out FILE.json

Weights are frozen, targets are computed before; one image. Loss and gradient are compared with
float64 first. Then all take turns. Exit codes: 0 measured, 1 a result is wrong (nothing is timed),
2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent, HERE.parent / "docs" / "examples"):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, `vggfast` of this checkout, the example

import style_transfer as example  # noqa: E402  - after the path is set
from harness.clock import Clock, CpuClock, CudaClock  # noqa: E402
from harness.contest import OURS, Contender, Rounds, contest  # noqa: E402
from harness.machine import commit, machine, versions  # noqa: E402
from harness.plain_perceptual import PlainLoss  # noqa: E402
from harness.results import atomically  # noqa: E402

from vggfast import InputError  # noqa: E402
from vggfast.command import BAD_INPUT, FAILED, Parser, fail  # noqa: E402
from vggfast.configs import NETS  # noqa: E402
from vggfast.reference import errors  # noqa: E402
from vggfast.taps import named_taps  # noqa: E402

PEERS = {"torch contiguous": torch.contiguous_format, "torch channels_last": torch.channels_last}
# A value beside a ReLU's or a max-pool's edge may fall on the other side of it, in torch's own
# kernels too; that moves a gradient by more than rounding does.
LARGEST_ERROR = {"loss": 1e-4, "gradient": 1e-2}

Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """An image, our loss of it, and torch's in float64 and by layout."""

    x: Tensor
    ours: Loss
    exact: Loss
    plain: dict[str, Loss]


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="bench/perceptual.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--mode", choices=(*example.MODES, "both"), default="both")
    p.add_argument("--net", choices=NETS, default="E")
    p.add_argument("--pool", choices=("average", "max"), default="average")
    p.add_argument("--size", type=int, default=256, help="side of the image in pixels (256)")
    p.add_argument("--rounds", type=int, default=15, help="calls of each contender (15)")
    p.add_argument("--device", default="cpu")
    p.add_argument("--out", type=Path, help="write the figures to this JSON file, too")
    return p


def main(argv: Sequence[str]) -> int:
    """Measure; 0, 1 for a wrong result, 2 for bad input."""
    try:
        given = parser().parse_args(argv)
        if given.rounds < 1:
            raise InputError(f"--rounds: got {given.rounds}, allowed are whole numbers from 1 up")
        if given.out is not None and not given.out.parent.is_dir():
            raise InputError(f"--out: got {given.out}, whose folder does not exist")
        modes = list(example.MODES) if given.mode == "both" else [given.mode]
        cases = {mode: case(mode, given) for mode in modes}
    except InputError as error:
        return fail(error, BAD_INPUT)
    device = torch.device(given.device)
    facts = machine(device, torch.get_num_threads())
    print(f"{facts['device']}: {facts['cpu']}, {facts['threads']} threads, commit {commit()}")
    rows = []
    for mode, each in cases.items():
        print(f"\n{mode}, {given.net}, {given.pool} pools, {given.size} x {given.size}", flush=True)
        wrong = compare(each)
        if wrong is not None:
            return fail(wrong, FAILED)
        rows += time(mode, each, given.rounds, device)
    if given.out is not None:
        record = {"machine": facts, "versions": versions(), "commit": commit(), "net": given.net,
                  "pool": given.pool, "size": given.size, "rows": rows}  # fmt: skip
        atomically(given.out, lambda part: part.write_text(json.dumps(record, indent=1) + "\n"))
    return 0


def case(mode: str, given: argparse.Namespace) -> Case:
    """The loss of the example's last image, for the content image with noise on it."""
    options = example.parsed([
        "--mode", mode, "--net", given.net, "--pool", given.pool, "--size", str(given.size),
        "--device", given.device,
    ])  # fmt: skip
    content = example.photograph("--content", options.content, options)
    style = None
    if mode == "transfer":
        style = example.photograph("--style", options.style, options)
    layers = options.layers if mode == "transfer" else options.layers[-1:]
    task = example.prepared(options, layers, options.style_layers, content, style)
    loss = task.loss
    places = {
        name: tap.number
        for name, tap in named_taps(loss.extractor).items()
        if name in (*loss.weights, *loss.style_weights)
    }

    def plain(layout: torch.memory_format, dtype: torch.dtype = torch.float32) -> Loss:
        made = PlainLoss(loss.extractor, places, loss.weights, loss.style_weights, dtype, layout)
        made.set_targets(content.to(dtype), None if style is None else style.to(dtype))
        return made

    noise = torch.randn(content.shape, generator=torch.Generator().manual_seed(1)).to(content)
    return Case(
        (content + 0.1 * noise).contiguous(),
        lambda x: loss(x, task.targets),
        plain(torch.contiguous_format, torch.float64),
        {name: plain(layout) for name, layout in PEERS.items()},
    )


def step(loss: Loss, x: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient to the image."""
    x = x.detach().requires_grad_()
    value = loss(x)
    value.backward()
    assert x.grad is not None, "the image has a gradient"
    return value.detach(), x.grad


def compare(each: Case) -> str | None:
    """Print errors against float64; say what is wrong, if anything is."""
    exact = step(each.exact, each.x.double())
    for name, loss in {OURS: each.ours, **each.plain}.items():
        for what, got, wanted in zip(LARGEST_ERROR, step(loss, each.x), exact, strict=True):
            apart = errors(got, wanted).rel
            print(f"  {name:<20} {what:<8} relative error {apart:.1e}")
            if name == OURS and not apart <= LARGEST_ERROR[what]:
                return f"{what}: error {apart:.1e}, allowed is {LARGEST_ERROR[what]:g}"
    return None


def time(mode: str, each: Case, rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Times of all contenders, in turns."""
    clock: Clock = CudaClock(device) if device.type == "cuda" else CpuClock()
    contenders = [
        Contender(name, lambda loss=loss: step(loss, each.x))  # type: ignore[misc]
        for name, loss in {OURS: each.ours, **each.plain}.items()
    ]
    outcome = contest(contenders, clock, Rounds(1e9, rounds, rounds, insist=True))
    rows = []
    for name, stats in outcome.times.items():
        against = outcome.paired.get(name)
        print(
            f"  {name:<20} {1e3 * stats.median:7.1f} ms, quartiles {1e3 * stats.q1:.1f} to "
            f"{1e3 * stats.q3:.1f}, n = {stats.n}"
            + (f"; vggfast is {against} as fast" if against else "")
        )
        rows.append({"mode": mode, "contender": name, **stats.as_dict()}
                    | ({"speedup": against.as_dict()} if against else {}))  # fmt: skip
    for name, why in outcome.skipped.items():
        print(f"  {name:<20} not measured: {why}")
        rows.append({"mode": mode, "contender": name, "skipped": why})
    return rows


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
