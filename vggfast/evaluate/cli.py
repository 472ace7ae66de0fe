"""The command: options to :func:`vggfast.evaluate.evaluate`, errors to a line and an exit code."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggfast.command import BAD_INPUT, FAILED, INTERRUPTED, Parser, fail
from vggfast.engine.failures import explained
from vggfast.engine.world import OtherRankError, launched_rank
from vggfast.errors import BackendError, InputError, LaunchError
from vggfast.evaluate import EvaluationError, Result, evaluate, fuse
from vggfast.evaluation import table
from vggfast.evaluation.settings import check_outputs

DATA = (
    "digits, mnist:DIR, fashion-mnist:DIR, imagenet:DIR, shards (TRAIN.tar,VAL.tar), or a folder "
    "with val/CLASS/*"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 1 (no usable scores, or a kernel that cannot be launched), 2
    (bad input, or too little memory for it), 130 (interrupted).
    """
    try:
        options = vars(_parser().parse_args(argv))
        written, listed, fused = (options.pop(name) for name in ("json", "table", "fuse"))
        check_outputs(written, listed)
        result = _run(options, fused)
        if result is not None:
            _show(result, written, listed, shown=options["progress"])
    except OtherRankError:
        return BAD_INPUT
    except (InputError, BackendError) as error:
        rank = launched_rank()
        return fail(f"rank {rank}: {error}" if rank else error, BAD_INPUT)
    except (EvaluationError, LaunchError) as error:
        return fail(error, FAILED)
    except (RuntimeError, MemoryError) as error:
        known = explained(error, "batch")
        if known is None:
            raise
        return fail(known, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted; scores that were complete are kept", INTERRUPTED)
    return 0


def _run(options: dict[str, Any], fused: list[str] | None) -> Result | None:
    weights, ensemble = (options.pop(name) for name in ("weights", "ensemble"))
    given = {name: value for name, value in options.items() if value is not None}
    if fused is not None:
        unused = [name for name in given if name != "progress"]
        if unused:
            raise InputError(
                f"{unused[0]}: got {given[unused[0]]!r} with --fuse, which computes nothing; "
                "allowed are --table, --json and --quiet"
            )
        return fuse(fused)
    if "data" not in given:
        raise InputError(f"data: got none, allowed are {DATA}")
    return evaluate(**given, weights=ensemble if weights is None else weights)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.evaluate",
        description="Top-1 and top-5 error by the protocols of Simonyan & Zisserman 2014. Under "
        "torchrun the processes share the images.",
    )
    what: Any = p.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", metavar="FILE", help="a network, *.safetensors")
    what.add_argument("--ensemble", nargs="+", metavar="FILE", help="networks to average")
    what.add_argument("--fuse", nargs="+", metavar="PARQUET",
        help="average scores that --scores wrote; nothing else is computed")  # fmt: skip
    add: Any = p.add_argument
    switch = argparse.BooleanOptionalAction
    add("--data", help=DATA)
    add("--part", help="val (default) or train")
    add("--protocol", help="dense (default), multicrop, both or single")
    add("--scales", help="test scales such as 256,384,512; auto (default): the paper's; one")
    add("--flips", action=switch, help="mirror images too: yes, but not of digits")
    add("--batch", type=int, help="crops' worth of pixels that the network sees at a time")
    add("--dtype", help="fp32 (default), bf16 or fp16")
    add("--device", help="auto (default), cpu, cuda or cuda:N")
    add("--backend", help="force a backend (default auto)")
    add("--exact", action=switch, help="convolve by plain sums, without Winograd")
    add("--threads", type=int, help="CPU threads")
    add("--workers", type=int, help="processes that decode images: 0")
    add("--limit", type=int, help="score this many images only")
    add("--on-bad-image", help="an image that cannot be read: fail (default) or skip")
    add("--scores", metavar="DIR", help="keep posteriors there, and use what is there")
    add("--table", metavar="FILE", help="write the table, *.md or *.csv")
    add("--json", metavar="FILE", help="write the result as JSON")
    add("--quiet", dest="progress", action="store_false", help="show nothing but errors")
    return p


def _show(result: Result, written: str | None, listed: str | None, *, shown: bool) -> None:
    if listed is not None:
        table.write(Path(listed), result.rows)
    if written is not None:
        about = {
            "images": result.images,
            "skipped": result.skipped,
            "sources": [vars(scores.source) for scores in result.scores],
            "rows": table.records(result.rows),
        }
        table.write_text("json", Path(written), json.dumps(about, indent=1) + "\n")
    if not shown:
        return
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console

        Console().print(table.rich_table(result.rows))
    else:
        print(table.markdown(result.rows), end="")
    if result.skipped:
        print(f"{result.skipped} images could not be read and are not counted")
