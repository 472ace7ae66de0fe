"""The command: options to :func:`vggfast.train.fit`, errors to one line and an exit code."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggfast.command import BAD_INPUT, FAILED, INTERRUPTED, STOPPED, Parser, fail
from vggfast.data import parse_spec
from vggfast.engine.world import OtherRankError, launched_rank
from vggfast.errors import BackendError, InputError
from vggfast.train import StoppedError, TrainingError, fit


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 (diverged), 2 (bad input), 130 (interrupted), 143 (stopped
    by SIGTERM, with a checkpoint)."""
    try:
        options = vars(_parser().parse_args(argv))
        if options["out"] is None and options["resume"] is False:
            options["out"] = _free_folder(options["data"] or "digits", options["net"] or "A")
        result = fit(**options)
    except OtherRankError:
        return BAD_INPUT
    except (InputError, BackendError) as error:
        rank = launched_rank()
        return _fail(f"rank {rank}: {error}" if rank else error, BAD_INPUT)
    except TrainingError as error:
        return _fail(error, FAILED, everywhere=True)
    except StoppedError as error:
        return _fail(f"stopped by SIGTERM; {error}", STOPPED, everywhere=True)
    except KeyboardInterrupt as error:
        what = f"interrupted; {error}" if str(error) else "interrupted"
        return _fail(what, INTERRUPTED, everywhere=True)
    if options["progress"] and not launched_rank():
        print(
            f"best val accuracy {result.best_accuracy:.2%} in epoch {result.best_epoch}, "
            f"kept in {result.out}"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.train",
        description="Train a VGG by the recipe of Simonyan & Zisserman 2014. With --resume, what "
        "is not given is as in the checkpoint.",
    )
    add: Any = p.add_argument
    switch = argparse.BooleanOptionalAction
    add("--recipe", help="paper or modern: presets, over which the options below win")
    add("--net", help="A (default), A-LRN, B, C, D or E")
    add("--data", help="digits (default), mnist:DIR, fashion-mnist:DIR, imagenet:DIR, shards, or a "
        "folder with train/CLASS/* and val/CLASS/*")  # fmt: skip
    add("--epochs", type=int, help="default 12, for photographs 74")
    add("--batch", type=int, help="images a step: 32, for photographs 256")
    add("--accumulate", type=int, help="pieces in which a batch is computed: 1")
    add("--micro-batch", type=int, help="or the most images of a piece")
    add("--lr", type=float, help="learning rate at the start: 0.01")
    add("--schedule", help="plateau (default) or cosine")
    add("--warmup", type=float, help="share of the steps in which a cosine's rate rises: 0")
    add("--patience", type=int, help="epochs without improvement that do not divide lr yet: 5")
    add("--momentum", type=float, help="0.9")
    add("--weight-decay", type=float, help="5e-4")
    add("--dropout", type=float, help="0.5")
    add("--label-smoothing", type=float, help="0")
    add("--ema", type=float, help="decay of an average of the weights, which is kept: none")
    add("--size", type=int, help="side of the images the network sees: 32, for photographs 224")
    add("--scale", help="S or SMIN:SMAX, shorter side of rescaled photographs: 8/7 of size")
    add("--flip", action=switch, help="mirror training images: yes, but not digits")
    add("--rgb-shift", help="none (default), train or imagenet: axes along which colours move")
    add("--on-bad-image", help="fail (default) or skip photographs that cannot be read")
    add("--init", help="kaiming (default), glorot or normal")
    add("--init-from", metavar="FILE", help="net A's best.safetensors, for a deeper net")
    add("--fine-tune-from", metavar="FILE", help="the same net's best.safetensors, all layers")
    add("--batch-norm", action=switch, help="batch normalisation after each convolution")
    add("--seed", type=int, help="0")
    add("--limit", type=int, help="train on this many images only")
    add("--dtype", "--amp", dest="dtype", help="fp32 (default); bf16 or fp16: autocast; auto")
    add("--backend", help="force a backend (default auto)")
    add("--exact", action=switch, help="convolve by plain sums, without Winograd")
    add("--graph", action=switch, help="on CUDA: a step as one CUDA graph")
    add("--device", help="auto (default), cpu, cuda or cuda:N")
    add("--threads", type=int, help="CPU threads")
    add("--workers", type=int, help="processes that read images: 0")
    add("--checkpoint-every", metavar="N", help="steps, or minutes (10m), also within an epoch")
    add("--out", help="folder for checkpoints and history: runs/DATA-NET, numbered if taken")
    add("--resume", nargs="?", const=True, default=False, metavar="PATH",
        help="continue a checkpoint, or a folder's last.pt, by default --out's")  # fmt: skip
    add("--tensorboard", action=switch, help="write TensorBoard scalars too")
    add("--quiet", dest="progress", action="store_false", help="show nothing but errors")
    return p


def _free_folder(data: str, net: str) -> str:
    kind, place = parse_spec(data)
    name = f"{Path(place).resolve().name if kind == 'folder' else kind}-{net}"
    taken = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return str(next(folder for folder in taken if not folder.exists()))


def _fail(error: object, code: int, everywhere: bool = False) -> int:
    """What every process knows, the first says."""
    if not everywhere or not launched_rank():
        fail(error, code)
    return code
