"""Time the parts of localisation's full protocol: both networks densely, and merging.

    python bench/localize_speed.py --net D

A batch of images, boxes per class, top-5 classes, one scale, the networks in float32 on a CPU or a
GPU. The boxes that are merged are spread as a trained network's: the places of an image vote for a
few objects. Exit codes: 0 measured, 2 bad input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from harness.machine import commit, machine, versions  # noqa: E402  - after the path is set

import vggfast  # noqa: E402
from vggfast.configs import DOWNSAMPLING, NETS  # noqa: E402
from vggfast.evaluation import class_maps  # noqa: E402
from vggfast.localization import dense_boxes, merge  # noqa: E402
from vggfast.localization.merging import best_boxes  # noqa: E402
from vggfast.models.boxes import BoxRegressor  # noqa: E402

SIZES = ((256, 256), (256, 341), (384, 512), (512, 683))
CLASSES, TOP, CROP = 1000, 5, 224


def milliseconds(function: Callable[[], object], repeats: int, device: torch.device) -> float:
    """The median of ``repeats`` calls, after one that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[1:])


def votes(problems: int, places: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes (problems, places, 4) around one of three objects each, some pixels off."""
    centres = rng.uniform(50, 350, (problems, 3, 2))
    sizes = rng.uniform(60, 250, (problems, 3, 2))
    of = rng.integers(0, 3, (problems, places, 1))
    centre, size = (np.take_along_axis(v, of, 1) for v in (centres, sizes))
    corners = np.concatenate([centre - size / 2, centre + size / 2], -1)
    return corners + rng.normal(0, 15, corners.shape)


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="bench/localize_speed.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add: Any = p.add_argument
    add("--net", choices=NETS, default="D")
    add("--batch", type=int, default=8)
    add("--repeats", type=int, default=3)
    add("--device", default="cpu")
    options = p.parse_args(argv)
    if options.batch < 1 or options.repeats < 1:
        p.error("--batch and --repeats: allowed are whole numbers from 1 up")
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = BoxRegressor(options.net, boxes="pcr", classes=CLASSES).eval().to(device)
    classifier = vggfast.vgg(options.net).eval().to(device)
    rng = np.random.default_rng(0)
    facts = machine(device, torch.get_num_threads())
    print(f"{facts['cpu']}, {facts['threads']} threads, {device}, {versions()}, {commit()}")
    print(
        f"\n| {options.net}, {options.batch} images | places | boxes ms | classes ms | merging ms |"
    )
    print("|---|---|---|---|---|")
    for height, width in SIZES:
        x = torch.randn(options.batch, 3, height, width, device=device)
        x = x.to(memory_format=torch.channels_last)
        labels = torch.randint(CLASSES, (options.batch, TOP), device=device)
        k = CROP // DOWNSAMPLING
        places = (height // DOWNSAMPLING - k + 1) * (width // DOWNSAMPLING - k + 1)
        boxes = votes(options.batch * TOP, places, rng)
        scores = rng.random(boxes.shape[:2])

        def merged(boxes: np.ndarray = boxes, scores: np.ndarray = scores) -> object:
            return best_boxes(*merge(boxes), scores)

        def located(x: torch.Tensor = x, labels: torch.Tensor = labels) -> object:
            return dense_boxes(model, x, labels)

        def named(x: torch.Tensor = x) -> object:
            return class_maps(classifier, x)

        times = [milliseconds(f, options.repeats, device) for f in (located, named, merged)]
        cells = " | ".join(f"{t:.1f}" for t in times)
        print(f"| {height} × {width} | {places} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
