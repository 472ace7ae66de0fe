"""The command line of ``bench/run.py``, as --help shows it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness import peers
from vggfast import backends, configs
from vggfast.command import Parser

COMPARISONS = ("threads", "isa")


def parser(dtypes: Sequence[str]) -> argparse.ArgumentParser:
    p = Parser(
        prog="bench/run.py",
        description="Check a VGG's numerics against float64, then time it against torch.",
        allow_abbrev=False,
    )
    p.add_argument("--net", default="E", help=f"configuration: {', '.join(configs.NETS)} (E)")
    p.add_argument(
        "--batch",
        help="images per inference call, one or several: 1,8 (CPU: 1,8; GPU: 1,32,256); "
        "the largest is also the training batch (CPU: 4; GPU: 256, or the half that fits)",
    )
    p.add_argument("--train-batch", help="images per training step (as said under --batch)")
    p.add_argument(
        "--dtype",
        help=f"{', '.join(dtypes)} (CPU: fp32, GPU: bf16). e4m3 is bf16 with the 3x3 convolutions "
        "of ours in e4m3: inference alone, on a GPU of compute capability 9.0",
    )
    p.add_argument(
        "--weights",
        help=f"how ours stores FC weights: {', '.join(backends.WEIGHTS)} (fp32). bf16 is for "
        "inference in fp32 on a CPU: no training step is timed, and the baselines get the rounded "
        "weights in fp32",
    )
    p.add_argument("--backend", help=f"force one: auto, {', '.join(backends.names())} (auto)")
    p.add_argument("--exact", action="store_true", help="convolve by plain sums, without Winograd")
    p.add_argument("--device", help="cpu, cuda, cuda:N (a GPU if torch sees one)")
    p.add_argument("--threads", help="CPU threads (torch's default)")
    p.add_argument("--layers", action="store_true", help="the per-layer part only, with gradients")
    p.add_argument(
        "--train",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="time a training step (yes)",
    )
    p.add_argument(
        "--peers",
        help=f"whom to time against: all, none, or some of {', '.join(peers.KEYS)} (torch's own). "
        "'all' is every one, and --memory. Preparing those named comes on top of --seconds",
    )
    p.add_argument(
        "--memory",
        action="store_true",
        help="peak memory of ours and of torch channels_last, each step in a process of its own",
    )
    p.add_argument(
        "--compare",
        help="more tables: threads (ours on all against one), isa (ours on AVX2 against torch "
        "on AVX2); these and --memory come on top of --seconds",
    )
    p.add_argument("--quick", action="store_true", help="fewer rounds and cases, within a minute")
    p.add_argument("--out", help="folder for the JSON and the PNG (bench/results)")
    p.add_argument("--size", help="rows and columns of an image, 32 or more (224)")
    p.add_argument("--seed", help="seed of the random data (0)")
    p.add_argument("--seconds", help="time to fill with rounds (CPU: 205, GPU: 470; --quick: 50)")
    return p
