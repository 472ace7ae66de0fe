"""Time dense evaluation of a batch against plain torch with the FC layers as convolutions.

    python bench/dense.py --net D

Both run on the CPU in float32 on whole images (docs/evaluation.md has the figures). The class maps
are compared first. Exit codes: 0 measured, 1 they differ (nothing is timed), 2 bad input.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
for place in (HERE, HERE.parent):
    if str(place) not in sys.path:
        sys.path.append(str(place))  # `harness`, and `vggfast` of this checkout

from harness.machine import commit, machine, versions  # noqa: E402  - after the path is set

import vggfast  # noqa: E402
from vggfast.configs import DOWNSAMPLING, FC_WIDTH, NETS  # noqa: E402
from vggfast.evaluation import class_maps  # noqa: E402
from vggfast.reference import errors  # noqa: E402

SIZES = ((256, 256), (256, 341), (384, 512), (512, 512))
LARGEST_ERROR = 1e-4


def plain(model: vggfast.VGG) -> nn.Module:
    """The network in torch's own modules, channels_last, its FC layers convolutions."""
    window = model.crop // DOWNSAMPLING
    linear = [m for m in model.classifier if isinstance(m, nn.Linear)]
    layers: list[nn.Module] = [nn.Sequential(*model.features)]
    for fc, k in zip(linear, (window, 1, 1), strict=True):
        c_in = FC_WIDTH if k == 1 and fc is not linear[0] else fc.in_features // k**2
        conv = nn.Conv2d(c_in, fc.out_features, k)
        conv.weight = nn.Parameter(fc.weight.detach().view(fc.out_features, c_in, k, k).clone())
        conv.bias = fc.bias
        layers += [conv, nn.ReLU(inplace=True)]
    whole = nn.Sequential(*layers[:-1]).eval()
    return whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def milliseconds(function: Callable[[Tensor], Tensor], x: Tensor, repeats: int) -> float:
    """The median of ``repeats`` calls, after one that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function(x)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken[1:])


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="bench/dense.py", description=__doc__)
    p.add_argument("--net", choices=NETS, default="D")
    p.add_argument("--batch", type=int, default=8)
    p.add_argument("--repeats", type=int, default=3)
    options = p.parse_args(argv)
    if options.batch < 1 or options.repeats < 1:
        p.error("--batch and --repeats: allowed are whole numbers from 1 up")
    torch.manual_seed(0)
    model = vggfast.vgg(options.net).eval()
    peer = plain(model)
    facts = machine(torch.device("cpu"), torch.get_num_threads())
    print(f"{facts['cpu']}, {facts['threads']} threads, {versions()}, commit {commit()}")
    print(f"\n| {options.net}, {options.batch} images | windows | vggfast ms | torch ms | ratio |")
    print("|---|---|---|---|---|")
    for height, width in SIZES:
        x = torch.randn(options.batch, 3, height, width).to(memory_format=torch.channels_last)
        maps = class_maps(model, x)
        apart = errors(maps, peer(x)).rel
        if apart > LARGEST_ERROR:
            print(f"class maps differ by {apart:.1e}, allowed is {LARGEST_ERROR:g}")
            return 1
        ours = milliseconds(lambda images: class_maps(model, images), x, options.repeats)
        theirs = milliseconds(peer, x, options.repeats)
        windows = f"{maps.shape[2]} × {maps.shape[3]}"
        print(
            f"| {height} × {width} | {windows} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.1f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
