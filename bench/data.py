"""Measure the input pipeline: images a second of decoding and augmentation, and who waits for whom.

    python bench/data.py              # against plain Pillow and torch, and torchvision's transforms
    python bench/data.py --waits      # seconds that training on this CPU waits for its images
    python bench/data.py --out FILE.json

The JPEGs are made from scikit-image's photographs, at a temporary place, and stay in the page
cache; so the time is the processor's. Contenders take turns, an epoch each. Exit codes: 0, or 2 for
bad input.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # `harness`, which is never installed
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))  # `vggfast` of this checkout, where none is installed

from harness import machine, photographs, pipelines  # noqa: E402  - after the path is set
from harness.clock import CpuClock  # noqa: E402
from harness.contest import OURS, Contender, Rounds, contest  # noqa: E402
from harness.results import atomically  # noqa: E402

from vggfast import InputError, vgg  # noqa: E402
from vggfast.command import Parser  # noqa: E402
from vggfast.data import Batches, DataSet, load  # noqa: E402

# (name, width and height of the JPEGs, S_min and S_max)
CASES = (
    ("500x375, S = 256", (500, 375), (256, 256)),
    ("500x375, S in [256, 512]", (500, 375), (256, 512)),
    ("2000x1500, S = 256", (2000, 1500), (256, 256)),
)
SIZE, BATCH = 224, 32


def parser() -> argparse.ArgumentParser:
    p = Parser(prog="bench/data.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    p.add_argument("--images", type=int, default=256, help="JPEGs of an epoch (256)")
    p.add_argument("--rounds", type=int, default=7, help="epochs of each contender (7)")
    p.add_argument("--workers", type=int, default=2, help="processes that read (2)")
    p.add_argument("--waits", action="store_true", help="train, and say how long that waits")
    p.add_argument("--out", type=Path, help="write the figures to this JSON file, too")
    return p


def main(argv: Sequence[str]) -> int:
    """Measure; 0, or 2 for bad input."""
    try:
        given = parser().parse_args(argv)
        for name, low in (("images", 4), ("rounds", 1), ("workers", 0)):
            if (value := getattr(given, name)) < low:
                raise InputError(f"--{name}: got {value}, allowed are whole numbers from {low} up")
        if given.out is not None and not given.out.parent.is_dir():
            raise InputError(f"--out: got {given.out}, whose folder does not exist")
        facts = machine.machine(torch.device("cpu"), torch.get_num_threads())
        print(f"{facts['cpu']}, {facts['cores']} cores, {given.workers} workers")
        rows = waits() if given.waits else speeds(given.images, given.rounds, given.workers)
        if given.out is not None:
            record = {"machine": facts, "versions": machine.versions(), "commit": machine.commit(),
                      "workers": given.workers, "rows": rows}  # fmt: skip
            text = json.dumps(record, indent=1) + "\n"
            atomically(given.out, lambda part: part.write_text(text))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def speeds(images: int, rounds: int, workers: int) -> list[dict[str, Any]]:
    """Images a second of each pipeline in each case, contenders in turns."""
    rows = []
    for name, jpeg, scale in CASES:
        with tempfile.TemporaryDirectory(prefix="vggfast-bench-") as folder:
            root = Path(folder)
            bytes_ = photographs.write(root, images, jpeg)
            print(f"\n{name}: {images} JPEGs of {bytes_ / 1e3:.0f} KB, crops of {SIZE}")
            data = load(folder, size=SIZE, scale=scale, rgb_shift="imagenet")
            ours = Batches(data.train, BATCH, shuffle=True, workers=workers)
            contenders = [Contender(OURS, partial(_epoch, ours))]
            for what in (pipelines.Plain, pipelines.Torchvision):
                contenders.append(_baseline(what, root, scale, workers))
            outcome = contest(contenders, CpuClock(), Rounds(1e9, rounds, rounds, insist=True))
        for contender, stats in outcome.times.items():
            speed = {at: images / getattr(stats, at) for at in ("median", "q1", "q3")}
            against = outcome.paired.get(contender)
            print(
                f"  {contender:<18} {speed['median']:7.1f} images/s, quartiles "
                f"{speed['q3']:.1f} to {speed['q1']:.1f}, n = {stats.n}"
                + (f"; vggfast is {against} as fast" if against else "")
            )
            rows.append({"case": name, "contender": contender, "images_per_second": speed,
                         "seconds": stats.as_dict()}
                        | ({"speedup": against.as_dict()} if against else {}))  # fmt: skip
        for contender, why in outcome.skipped.items():
            print(f"  {contender:<18} not measured: {why}")
            rows.append({"case": name, "contender": contender, "skipped": why})
    return rows


def _baseline(
    what: type[pipelines.Plain], root: Path, scale: tuple[int, int], workers: int
) -> Contender:
    name = {"Plain": "Pillow and torch", "Torchvision": "torchvision"}[what.__name__]
    try:
        samples = what(root, SIZE, scale)
    except ImportError as error:
        return Contender(name, None, str(error))
    loader = pipelines.loader(samples, BATCH, workers)
    return Contender(name, lambda: drain(loader))


def _epoch(batches: Batches) -> int:
    return drain(batches.epoch())


def drain(batches: Iterable[Any]) -> int:
    """Take every batch; the number of images."""
    return sum(len(y) for _, y in batches)


def waits() -> list[dict[str, Any]]:
    """Seconds of training steps of VGG-A on this CPU, and of those, seconds of waiting."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="vggfast-bench-") as folder:
        photographs.write(Path(folder), 96, (500, 375))
        photos = load(folder, size=SIZE, scale=(256, 512), rgb_shift="train")
        rows.append(_waits("photographs, 224x224", photos, SIZE, batch=16, workers=1))
    rows.append(_waits("digits, 32x32", load("digits", size=32, scale=(32, 32)), 32, 32, 0))
    return rows


def _waits(name: str, data: DataSet, size: int, batch: int, workers: int) -> dict[str, Any]:
    model = vgg("A", num_classes=len(data.classes), crop=size).train()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, fused=True)
    batches = Batches(data.train, batch, shuffle=True, workers=workers)
    images = 0
    first = begun = time.perf_counter()
    first_wait = 0.0  # for the workers' start, and the first batch
    for x, y in batches.epoch(1):
        if not images:
            begun, first_wait = time.perf_counter(), batches.waited
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        images += len(y)
    end = time.perf_counter()
    trained, later = images / (end - first), batches.waited - first_wait
    start = time.perf_counter()
    alone = drain(batches.epoch(2)) / (time.perf_counter() - start)
    share = later / (end - begun)
    print(
        f"{name}, batch {batch}, {workers} workers: {trained:.1f} images/s trained; waited "
        f"{first_wait:.3f} s for the first batch, {later:.3f} s ({share:.2%}) for the other "
        f"{len(batches) - 1}; the pipeline alone makes {alone:.0f} images/s"
    )
    return {"case": name, "batch": batch, "workers": workers, "trained_per_second": trained,
            "first_wait_s": first_wait, "later_waits_s": later, "later_share": share,
            "pipeline_per_second": alone}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
