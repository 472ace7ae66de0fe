"""The command: options to the functions of vggfast.localize, errors to a line and an exit code."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggfast.command import BAD_INPUT, FAILED, INTERRUPTED, STOPPED, Parser, fail
from vggfast.engine.failures import explained
from vggfast.engine.world import OtherRankError, launched_rank
from vggfast.errors import BackendError, InputError, LaunchError
from vggfast.evaluation.settings import check_outputs
from vggfast.evaluation.table import write_text
from vggfast.localization import table
from vggfast.localize import (
    LocalizationError,
    Prediction,
    Result,
    StoppedError,
    TrainingError,
    evaluate,
    fit,
    predict,
)  # fmt: skip

DATA = "imagenet:DIR, voc:DIR or boxes:FILE.csv"
ON_BAD = "images that cannot be read, or with boxes that do not fit: fail (default) or skip"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 (diverged, or boxes that are not finite), 2 (bad input), 130
    (interrupted), 143 (training stopped by SIGTERM, with a checkpoint)."""
    try:
        options = vars(_parser().parse_args(argv))
        given = {name: value for name, value in options.items() if value is not None}
        _COMMANDS[given.pop("command")](given)
    except OtherRankError:
        return BAD_INPUT
    except (InputError, BackendError) as error:
        rank = launched_rank()
        return fail(f"rank {rank}: {error}" if rank else error, BAD_INPUT)
    except (TrainingError, LocalizationError, LaunchError) as error:
        return _fail(error, FAILED)
    except StoppedError as error:
        return _fail(f"stopped by SIGTERM; {error}", STOPPED)
    except (RuntimeError, MemoryError) as error:
        known = explained(error, "batch")
        if known is None:
            raise
        return fail(known, BAD_INPUT)
    except KeyboardInterrupt as error:
        return _fail(f"interrupted; {error}" if str(error) else "interrupted", INTERRUPTED)
    return 0


def _train(given: dict[str, Any]) -> None:
    if "out" not in given and given["resume"] is False:
        if "data" not in given:
            raise InputError(f"data: got none, allowed are {DATA}")
        given["out"] = _free_folder(given["data"], given.get("boxes", "pcr"))
    result = fit(**given)
    if given["progress"] and not launched_rank():
        print(
            f"best: IoU above 0.5 in {result.best_accuracy:.2%} of the validation images, epoch "
            f"{result.best_epoch}, kept in {result.out}"
        )


def _evaluate(given: dict[str, Any]) -> None:
    written, listed = (given.pop(name, None) for name in ("json", "table"))
    check_outputs(written, listed)
    result = evaluate(**given)
    if result is None:
        return
    if listed is not None:
        table.write(Path(listed), [result.row])
    if written is not None:
        write_text("json", Path(written), json.dumps(asdict(result), indent=1) + "\n")
    if given["progress"]:
        _show(result)


def _show(result: Result) -> None:
    print(table.markdown([result.row]), end="")
    if result.skipped:
        print(f"{result.skipped} images could not be used and are not counted")


def _predict(given: dict[str, Any]) -> None:
    found = predict(given.pop("images"), **given)
    if given["progress"]:
        for prediction in found:
            print(_line(prediction))


def _line(prediction: Prediction) -> str:
    texts = (
        f"{f.name} {f.probability:.1%} at ({', '.join(f'{end:.0f}' for end in f.box)})"
        for f in prediction.found
    )
    return f"{prediction.image}: {', '.join(texts)}"


_COMMANDS = {"train": _train, "evaluate": _evaluate, "predict": _predict}


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.localize",
        description="The localisation of Simonyan & Zisserman 2014: boxes of the objects that a "
        "network names.",
    )
    commands = p.add_subparsers(dest="command", required=True, metavar="train|evaluate|predict")
    _add_train(commands.add_parser("train", help="train boxes from a classification network"))
    _add_evaluate(commands.add_parser("evaluate", help="measure the localisation error"))
    _add_predict(commands.add_parser("predict", help="draw boxes on images"))
    return p


def _add_train(p: argparse.ArgumentParser) -> None:
    add: Any = p.add_argument
    switch = argparse.BooleanOptionalAction
    add("--data", help=DATA)
    add("--init-from", metavar="FILE", help="the classification network, *.safetensors")
    add("--boxes", help="pcr (default): a box for each class; scr: one for all")
    add("--tune", help="all (default) layers, or fc: the FC layers alone")
    add("--epochs", type=int, help="default 74")
    add("--batch", type=int, help="images a step: 256")
    add("--accumulate", type=int, help="pieces in which a batch is computed: 1")
    add("--micro-batch", type=int, help="or the most images of a piece")
    add("--lr", type=float, help="learning rate at the start: 0.001")
    add("--schedule", help="plateau (default) or cosine")
    add("--warmup", type=float, help="share of the steps in which a cosine's rate rises: 0")
    add("--patience", type=int, help="epochs without improvement that do not divide lr yet: 5")
    add("--momentum", type=float, help="0.9")
    add("--weight-decay", type=float, help="5e-4")
    add("--dropout", type=float, help="0.5")
    add("--ema", type=float, help="decay of an average of the weights, which is kept: none")
    add("--scale", help="S or SMIN:SMAX: as the classification network was trained")
    add("--flip", action=switch, help="mirror training images: yes")
    add("--on-bad-image", help=ON_BAD)
    add("--seed", type=int, help="0")
    add("--limit", type=int, help="train on this many images only")
    add("--checkpoint-every", metavar="N", help="steps, or minutes (10m), also within an epoch")
    add("--out", help="folder for checkpoints and history: runs/DATA-boxes-KIND")
    add("--resume", nargs="?", const=True, default=False, metavar="PATH",
        help="continue a checkpoint, or a folder's last.pt, by default --out's")  # fmt: skip
    add("--tensorboard", action=switch, help="write TensorBoard scalars too")
    add("--dtype", "--amp", dest="dtype", help="fp32 (default); bf16 or fp16: autocast; auto")
    _add_common(p)


def _add_evaluate(p: argparse.ArgumentParser) -> None:
    add: Any = p.add_argument
    add("--data", required=True, help=DATA)
    add("--part", help="val (default) or train")
    add("--protocol", help="centre (default): the true class in the centre crop; or full")
    add("--limit", type=int, help="measure this many images only")
    add("--on-bad-image", help=ON_BAD)
    add("--table", metavar="FILE", help="write the table, *.md or *.csv")
    add("--json", metavar="FILE", help="write the result as JSON")
    _add_networks(p, top=5)
    _add_common(p)


def _add_predict(p: argparse.ArgumentParser) -> None:
    add: Any = p.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files")
    add("--out", metavar="DIR", help="folder for pictures with boxes, and boxes.json")
    _add_networks(p, top=1)
    _add_common(p)


def _add_networks(p: argparse.ArgumentParser, top: int) -> None:
    add: Any = p.add_argument
    switch = argparse.BooleanOptionalAction
    add("--weights", nargs="+", required=True, metavar="FILE", help="networks of localize train")
    add("--classifier", nargs="+", metavar="FILE", help="classification networks, for full")
    add("--scales", help="test scales such as 256,384; one (default): as trained; auto")
    add("--top", type=int, help=f"how many classes: {top}")
    add("--merge-threshold", type=float, help="t: pairs of boxes that match up to it are merged")
    add("--flips", action=switch, help="mirror images too, for the classes: yes")
    add("--batch", type=int, help="crops' worth of pixels that the networks see at a time")
    add("--dtype", help="fp32 (default), bf16 or fp16")


def _add_common(p: argparse.ArgumentParser) -> None:
    add: Any = p.add_argument
    add("--device", help="auto (default), cpu, cuda or cuda:N")
    add("--backend", help="force a backend (default auto)")
    add("--exact", action=argparse.BooleanOptionalAction, help="convolve by plain sums")
    add("--threads", type=int, help="CPU threads")
    add("--workers", type=int, help="processes that decode images: 0")
    add("--quiet", dest="progress", action="store_false", help="show nothing but errors")


def _free_folder(data: str, boxes: str) -> str:
    name = f"{Path(data.rpartition(':')[2]).resolve().stem}-boxes-{boxes}"
    taken = (Path("runs") / (name if i == 1 else f"{name}-{i}") for i in itertools.count(1))
    return str(next(folder for folder in taken if not folder.exists()))


def _fail(error: object, code: int) -> int:
    """What every process knows, the first says."""
    if not launched_rank():
        fail(error, code)
    return code
