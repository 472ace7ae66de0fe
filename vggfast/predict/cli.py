"""The command: images and folders in, the likeliest classes of each out."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from vggfast.command import BAD_INPUT, FAILED, INTERRUPTED, Parser, fail
from vggfast.data.decode import SUFFIXES
from vggfast.engine.failures import explained
from vggfast.errors import BackendError, InputError, LaunchError
from vggfast.predict.images import groups
from vggfast.predict.predictor import Predictor
from vggfast.weights import Weights, load_weights
from vggfast.weights.classes import are_numbers, read_classes
from vggfast.weights.load import PREPROCESSING

Row = tuple[str, list[str], list[float], list[int]]  # image, labels, probabilities, numbers


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 (an image could not be read; the others are answered), 2 (bad
    input, or too little memory for it), 130 (interrupted).
    """
    try:
        options = _parser().parse_args(argv)
        paths = _files(options.images)
        weights = load_weights(
            options.weights,
            net=options.net,
            batch_norm=options.batch_norm,
            preprocessing=options.preprocessing,
            classes=None if options.classes is None else read_classes(options.classes),
            backend=options.backend,
        )
        rows, bad = _predict(_predictor(weights, options), paths, options.batch)
    except (InputError, BackendError) as error:
        return fail(error, BAD_INPUT)
    except LaunchError as error:
        return fail(error, FAILED)
    except (RuntimeError, MemoryError) as error:
        known = explained(error, "batch")
        if known is None:
            raise
        return fail(known, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    _show(rows, bad, weights, options.json)
    return FAILED if bad else 0


def _files(given: Sequence[str]) -> list[Path]:
    """The images, those of folders by name."""
    paths: list[Path] = []
    for name in given:
        path = Path(name)
        if not path.is_dir():
            paths.append(path)  # one that is not there is named with those that cannot be read
            continue
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise InputError(f"images: no image in {path}; allowed are *{', *'.join(SUFFIXES)}")
        paths += found
    return paths


def _predictor(weights: Weights, options: argparse.Namespace) -> Predictor:
    if options.batch < 1:
        raise InputError(f"batch: got {options.batch}, allowed is 1 or more")
    if options.top < 1:
        raise InputError(f"top: got {options.top}, allowed is 1 or more")
    model = weights.model
    try:
        gpu = torch.cuda.is_available()
        model.to(options.device or ("cuda" if gpu else "cpu"))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0][:100]
        raise InputError(
            f"device: got {options.device!r}, allowed are cpu and GPUs such as cuda ({reason})"
        ) from None
    return Predictor(
        model, weights.classes, weights.mean, weights.std, scale=weights.scale,
        top_k=min(options.top, len(weights.classes)), batch_size=options.batch,
    )  # fmt: skip


def _predict(
    predictor: Predictor, paths: Sequence[Path], batch: int
) -> tuple[list[Row], dict[str, str]]:
    """A row for each image that can be read, and why the others cannot."""
    rows: list[Row] = []
    bad: dict[str, str] = {}
    readable = _read(predictor, paths, bad)
    while part := list(islice(readable, batch)):
        found = predictor([image for _, image in part])
        rows += [
            (str(path), labels, values, numbers)
            for (path, _), labels, values, numbers in zip(
                part, found.labels, found.probabilities.tolist(), found.indices.tolist(),
                strict=True,
            )
        ]  # fmt: skip
    return rows, bad


def _read(
    predictor: Predictor, paths: Sequence[Path], bad: dict[str, str]
) -> Iterator[tuple[Path, torch.Tensor]]:
    """Images as the network takes them: a batch of photographs would fill the memory."""
    like = next(predictor.model.parameters())
    for path in paths:
        try:
            (pixels,) = groups(path)
        except InputError as error:
            if "Pillow" in str(error):
                raise  # no image could be read without it
            bad[str(path)] = str(error).removeprefix("images: ")
            continue
        yield path, predictor.preprocess(pixels.to(like.device), like.dtype)


def _show(rows: list[Row], bad: dict[str, str], weights: Weights, as_json: bool) -> None:
    numbers = are_numbers(weights.classes)
    if as_json:
        found = [
            {"image": image, "classes": labels, "probabilities": values, "numbers": at}
            for image, labels, values, at in rows
        ]
        about = {"net": weights.net, "named": not numbers, "images": found, "unreadable": bad}
        print(json.dumps(about, indent=1))
    else:
        if rows:
            _print_table(rows)
        if numbers:
            print("classes are numbers: the weights have no names; --classes FILE gives them")
    for reason in bad.values():
        print(f"error: {reason}", file=sys.stderr)


def _print_table(rows: list[Row]) -> None:
    ranks = [f"{label} {value:.1%}" for _, labels, values, _ in rows
             for label, value in zip(labels, values, strict=True)]  # fmt: skip
    top = len(rows[0][1])
    if importlib.util.find_spec("rich") is None:
        for at, (image, *_) in enumerate(rows):
            print("\t".join([image, *ranks[at * top : (at + 1) * top]]))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", "", "class", "probability")
    for image, labels, values, _ in rows:
        for rank, (label, value) in enumerate(zip(labels, values, strict=True)):
            name = escape(image) if rank == 0 else ""
            table.add_row(name, str(rank + 1), escape(label), f"{value:.1%}")
        table.add_section()
    # In a pipe lines are not cut to a terminal's width.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.predict",
        description="The likeliest classes of images by a network.",
    )
    add: Any = p.add_argument
    add("images", nargs="+", metavar="IMAGE", help="image files, and folders of them")
    add("--weights", required=True, metavar="FILE",
        help="a network; imagenet: torchvision's in torch.hub's folder")  # fmt: skip
    add("--classes", metavar="FILE", help="names of the classes: a line each, or JSON")
    add("--top", type=int, default=5, help="how many classes of each image (5)")
    add("--json", action="store_true", help="print JSON")
    add("--batch", type=int, default=64, help="images that the network sees at a time (64)")
    add("--device", help="cpu, cuda or cuda:N (a GPU if there is one)")
    add("--backend", help="force a backend (default auto)")
    add("--net", help="the configuration it has to be; of imagenet: D")
    add("--batch-norm", action=argparse.BooleanOptionalAction, help="the same of its normalisation")
    add(
        "--preprocessing", help=f"images of a state dict: {', '.join(PREPROCESSING)} (by its names)"
    )
    return p
