"""Time networks as other people write them against the same after ``vggfast.accelerate``.

    python bench/drop_in.py

VGG-16 as torchvision builds it, LPIPS' slices, a U-Net with VGG's encoder and SSD's trunk, on the
CPU in float32, eager: inference, and a training step (forward, backward, SGD). Images and weights
are once contiguous, as most people leave them, and once channels_last; in both the two take turns.
Results are compared first. JSON and a Markdown table are written beside each other with ``--out``.
Exit codes: 0 measured, 1 results differ (nothing is timed), 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from harness import machine  # noqa: E402  - after the path is set
from harness.clock import CpuClock  # noqa: E402
from harness.contest import OURS, Contender, Rounds, contest  # noqa: E402
from harness.drop_in_networks import NETWORKS  # noqa: E402
from harness.results import atomically  # noqa: E402

import vggfast  # noqa: E402
from vggfast import InputError  # noqa: E402
from vggfast.command import Parser  # noqa: E402
from vggfast.reference import errors  # noqa: E402

LARGEST_ERROR = 1e-4
# A sum near zero has its sign by chance, and the gradient passes its ReLU or does not.
LARGEST_GRADIENT_ERROR = 1e-2
TORCH = "torch, eager"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WORKS = ("inference", "training")
HEADER = ("network", "work", "layout", "torch (ms)", "vggfast (ms)", "times faster", "rounds")


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="bench/drop_in.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--nets", default=",".join(NETWORKS), help=f"of {', '.join(NETWORKS)}: all")
    p.add_argument("--batch", type=int, default=8, help="images of a call: 8")
    p.add_argument("--rounds", type=int, default=7, help="calls of each contender: 7")
    p.add_argument("--quick", action="store_true", help="narrow networks on small images, 1 round")
    p.add_argument("--out", type=Path, help="write a JSON file, and a table beside it (.md)")
    return p


def infer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x)
    return y


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """A step whose loss is of no meaning; the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss: Tensor = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def compare(name: str, model: nn.Module, fast: nn.Module, x: Tensor) -> tuple[float, float]:
    """The relative differences of results and of the parameters' gradients.

    Raises:
        ValueError: one is too large.
    """
    found = []
    for m in (model, fast):
        m.zero_grad()
        y = m(x)
        y.square().mean().backward()
        gradients = [p.grad.flatten() for p in m.parameters() if p.grad is not None]
        found.append((y.detach(), torch.cat(gradients)))
    result, gradient = (errors(ours, theirs).rel for theirs, ours in zip(*found, strict=True))
    for what, apart, allowed in (
        ("results", result, LARGEST_ERROR), ("gradients", gradient, LARGEST_GRADIENT_ERROR)
    ):  # fmt: skip
        if not apart <= allowed:
            raise ValueError(f"{name}, {what}: got {apart:.1e}, allowed is {allowed:g}")
    return result, gradient


def initialise(model: nn.Module) -> None:
    """He's rule, which keeps the maps' size from layer to layer; torch's lets them fade."""
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu")


def measure(name: str, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each layout and kind of work."""
    make, size = NETWORKS[name]
    torch.manual_seed(0)
    model = make(16 if given.quick else 1)
    initialise(model)
    fast = vggfast.accelerate(model)  # the same parameters
    images = torch.randn(given.batch, 3, *(2 * (64 if given.quick else size,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for layout, memory_format in LAYOUTS.items():
        model.to(memory_format=memory_format)  # type: ignore[call-overload]
        x = images.to(memory_format=memory_format)
        apart = compare(f"{name}, {layout}", model, fast, x)
        for work in WORKS:
            both = {}
            for who, m in ((OURS, fast), (TORCH, model)):
                m.train(work == "training")
                call: Callable[[], object] = partial(infer, m, x)
                both[who] = partial(train, m, optimizer, x) if work == "training" else call
            outcome = contest(
                [Contender(who, call) for who, call in both.items()],
                CpuClock(),
                Rounds(1e9, given.rounds, given.rounds, insist=True),
            )
            if TORCH in outcome.skipped:
                raise ValueError(f"{name}, {layout}: torch: {outcome.skipped[TORCH]}")
            yield {
                "network": name, "work": work, "layout": layout, "batch": given.batch,
                "apart": apart, "speedup": outcome.paired[TORCH].as_dict(),
                "shown": str(outcome.paired[TORCH]),
                "seconds": {who: s.as_dict() for who, s in outcome.times.items()},
                "milliseconds": {who: 1e3 * s.median for who, s in outcome.times.items()},
                "rounds": outcome.times[OURS].n,
            }  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    times = (f"{row['milliseconds'][who]:.1f}" for who in (TORCH, OURS))
    return (
        row["network"], row["work"], row["layout"], *times, row["shown"], str(row["rounds"])
    )  # fmt: skip


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    lines = [HEADER, ("---",) * len(HEADER), *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def check(given: argparse.Namespace) -> list[str]:
    """The names of networks; raises InputError for an option that cannot be."""
    names = [name for name in given.nets.split(",") if name]
    if not names or any(name not in NETWORKS for name in names):
        raise InputError(f"--nets: got {given.nets!r}, allowed are {', '.join(NETWORKS)}")
    for name in ("batch", "rounds"):
        if (value := getattr(given, name)) < 1:
            raise InputError(f"--{name}: got {value}, allowed are whole numbers from 1 up")
    if given.out is not None and (given.out.suffix != ".json" or not given.out.parent.is_dir()):
        raise InputError(f"--out: got {given.out}, allowed is a .json file in a folder there is")
    return names


def main(argv: Sequence[str]) -> int:
    """Measure; 0, 1 if results differ, or 2 for bad input."""
    try:
        given = parser().parse_args(argv)
        names = check(given)
        if given.quick:
            given.rounds, given.batch = 1, min(given.batch, 2)
        facts = machine.machine(torch.device("cpu"), torch.get_num_threads())
        print(f"{facts['cpu']}, {facts['threads']} threads, torch {torch.__version__}")
        rows = []
        for name in names:
            for row in measure(name, given):
                rows.append(row)
                print("  " + "  ".join(cells(row)), flush=True)
        if given.out is not None:
            options = {name: value for name, value in vars(given).items() if name != "out"}
            record = {"options": options, "machine": facts, "versions": machine.versions(),
                      "commit": machine.commit(), "rows": rows}  # fmt: skip
            text = json.dumps(record, indent=1) + "\n"
            atomically(given.out, lambda part: part.write_text(text))
            atomically(given.out.with_suffix(".md"), lambda part: part.write_text(markdown(rows)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"results differ: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
