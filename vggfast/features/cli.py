"""The command: options to :mod:`vggfast.features`, errors to a line and an exit code."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggfast.command import BAD_INPUT, FAILED, INTERRUPTED, Parser, fail
from vggfast.engine.failures import explained
from vggfast.engine.world import OtherRankError, launched_rank
from vggfast.errors import BackendError, InputError, LaunchError
from vggfast.evaluation.settings import check_outputs
from vggfast.evaluation.table import write_text
from vggfast.features import ExtractionError, classify, extract, load
from vggfast.transfer import stack, table
from vggfast.transfer.benchmarks import BENCHMARKS
from vggfast.transfer.collection import DATA


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 (no usable features, or a kernel that cannot be launched), 2
    (bad input, or too little memory for it), 130 (interrupted).
    """
    try:
        options = vars(_parser().parse_args(argv))
        work = {"extract": _extract, "classify": _classify}[options.pop("command")]
        work({name: value for name, value in options.items() if value is not None})
    except OtherRankError:
        return BAD_INPUT
    except (InputError, BackendError) as error:
        rank = launched_rank()
        return fail(f"rank {rank}: {error}" if rank else error, BAD_INPUT)
    except (ExtractionError, LaunchError) as error:
        return fail(error, FAILED)
    except (RuntimeError, MemoryError) as error:
        known = explained(error, "batch")
        if known is None:
            raise
        return fail(known, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted; shards that were complete are kept", INTERRUPTED)
    return 0


def _extract(options: dict[str, Any]) -> None:
    found = extract(**options)
    if found is not None and options["progress"]:
        made = f"{found.made} made now" if found.made else "all were there"
        print(
            f"{found.folder}: {found.records} vectors of {found.dimension}, {found.shards} shards, "
            f"{made}"
        )
        if found.skipped:
            print(f"{len(found.skipped)} images could not be read and have no vector")


def _classify(options: dict[str, Any]) -> None:
    folders, written, listed = (options.pop(n, None) for n in ("features", "json", "table"))
    check_outputs(written, listed)
    if "c" in options:
        options["c"] = _numbers(options["c"])
    loaded = [load(folder) for folder in folders]
    manifests = [features.manifest for features in loaded]
    found = stack(loaded)
    del loaded  # stacked, they are there a second time
    outcome = classify(found, **options)
    title, dimension = table.titles(manifests), found.values.shape[1]
    if listed is not None:
        table.write(Path(listed), title, dimension, outcome)
    if written is not None:
        about = {
            "features": title, "dimension": dimension, "folders": folders,
            "settings": [m["settings"] for m in manifests], "parts": found.manifest["parts"],
            "outcome": table.record(outcome),
        }  # fmt: skip
        write_text("json", Path(written), json.dumps(about, indent=1) + "\n")
    print(table.markdown(table.rows(title, dimension, outcome)), end="")
    if outcome.unfinished:
        print(f"{outcome.unfinished} fits did not converge; a smaller C does")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"c: got {text!r}, allowed are numbers such as 0.1,1,10") from None


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.features",
        description="Off-the-shelf features as Simonyan & Zisserman 2014 use them for other tasks.",
    )
    commands: Any = p.add_subparsers(dest="command", required=True)
    _add_extract(commands)
    _add_classify(commands)
    return p


def _add_extract(commands: Any) -> None:
    p: Any = commands.add_parser(
        "extract",
        help="images to a folder of features",
        description="Write features of images to a folder, or go on where that was stopped. Under "
        "torchrun the processes share the images.",
    )
    add, switch = p.add_argument, argparse.BooleanOptionalAction
    add("--weights", nargs="+", required=True, metavar="FILE",
        help="a network, *.safetensors; several are stacked")  # fmt: skip
    add("--data", required=True, help=DATA)
    add("--out", required=True, metavar="DIR", help="folder for the features")
    add("--part", help="all (default), or parts of the set, as train,val")
    add("--layer", help="relu7 (default: before the last FC layer), fc6, relu5_3, pool4, ...")
    add(
        "--scales",
        help="Q, such as 256,384,512; auto (default): the three for how the net was trained; one: "
        "the middle one",
    )
    add("--combine", help="what to do with several scales: average (default) or stack")
    add("--normalise", action=switch, help="give each vector the length 1 (default)")
    add(
        "--flips",
        action=switch,
        help="average over mirror images too (default; not of digits and mnist)",
    )
    add("--boxes", metavar="PATH", help="a vector for each box: *.csv, *.json, a folder of *.xml")
    add("--region", help="of what, where there are boxes: box (default), image or both")
    add("--format", help="of the shards: safetensors (default) or parquet")
    add("--shard-size", type=int, help="vectors in a shard (1024)")
    add(
        "--batch",
        type=int,
        help="pixels the net sees at a time, in crops' worth (16 of 224 x 224; GPU: 128)",
    )
    add("--dtype", help="fp32 (default), bf16 or fp16")
    add("--device", help="auto (default), cpu, cuda or cuda:N")
    add("--backend", help="force a backend (default auto)")
    add("--exact", action=switch, help="convolve by plain sums, without Winograd")
    add("--threads", type=int, help="CPU threads")
    add("--workers", type=int, help="processes that decode images (0: none beside this one)")
    add("--limit", type=int, help="at most so many images of each part, spread over it")
    add("--on-bad-image", help="an image that cannot be read: fail (default) or skip")
    add("--quiet", dest="progress", action="store_false", help="show nothing but errors")


def _add_classify(commands: Any) -> None:
    p: Any = commands.add_parser(
        "classify",
        help="linear SVMs on features, scored as the benchmark does",
        description="Train linear SVMs on features, and score them as the data set is scored.",
    )
    add = p.add_argument
    add("--features", nargs="+", required=True, metavar="DIR",
        help="folder that extract wrote; several of the same images are stacked")  # fmt: skip
    add("--benchmark", help=f"{', '.join(BENCHMARKS)}; by default the data set's")
    add("--train", metavar="PARTS", help="parts to train on, as train,val (the benchmark's)")
    add("--test", metavar="PARTS", help="parts to test with (the benchmark's)")
    add("--splits", type=int, help="number of random splits, of the Caltech sets (3)")
    add(
        "--train-per-class",
        type=int,
        help="training images of each class in a split (30; caltech256: 60)",
    )
    add(
        "--test-per-class",
        type=int,
        help="test images of each class, at most (50; caltech256: all others)",
    )
    add(
        "--c",
        metavar="LIST",
        help="values of C to choose from, on held-out training images (0.01,0.1,1,10,100,1000)",
    )
    add("--seed", type=int, help="of the splits and the held-out images (0)")
    add("--table", metavar="FILE", help="write the table, *.md or *.csv")
    add("--json", metavar="FILE", help="write the result as JSON")
