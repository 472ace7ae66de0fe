"""The command: a file of weights in, another out, and what was found said."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggfast.command import BAD_INPUT, INTERRUPTED, Parser, fail
from vggfast.errors import InputError
from vggfast.taps.normalize import IMAGENET
from vggfast.weights import Weights, export, load_weights, save_weights
from vggfast.weights.classes import are_numbers, read_classes
from vggfast.weights.load import PREPROCESSING

OURS = "vggfast"
_CROP = 224  # torchvision's and timm's


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 2 after bad input, or 130 when interrupted: OUT is as it was."""
    try:
        options = _parser().parse_args(argv)
        _check(options)
        weights = load_weights(
            options.source,
            net=options.net,
            batch_norm=options.batch_norm,
            preprocessing=options.preprocessing,
            classes=None if options.classes is None else read_classes(options.classes),
        )
        notes = _write(weights, options)
    except InputError as error:
        return fail(error, BAD_INPUT)
    except KeyboardInterrupt:
        return fail("interrupted; nothing was written", INTERRUPTED)
    for note in notes:
        print(f"note: {note}")
    print(f"wrote {options.out}: {_described(weights)}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if options.to not in (OURS, *export.SPELLINGS):
        raise InputError(
            f"to: got {options.to!r}, allowed are {', '.join((OURS, *export.SPELLINGS))}"
        )
    if options.to == OURS and options.out.suffix.lower() != ".safetensors":
        raise InputError(
            f"out: got {str(options.out)!r}, allowed is *.safetensors (--to torchvision and "
            "--to timm write *.pth too)"
        )
    if options.to != OURS and options.classes is not None:
        raise InputError(
            f"classes: got {options.classes} with --to {options.to}, whose state dicts have no "
            "names; allowed is none"
        )
    if options.out.exists() and not options.force:
        raise InputError(f"out: {options.out} exists; --force replaces it")


def _write(weights: Weights, options: argparse.Namespace) -> list[str]:
    """Write OUT; what is lost or has to be known."""
    numbers = are_numbers(weights.classes)
    if options.to == OURS:
        save_weights(
            options.out, weights.model, classes=weights.classes, mean=weights.mean,
            std=weights.std, scale=weights.scale, extra=weights.extra,
        )  # fmt: skip
        return ["the classes have no names but numbers; --classes FILE names them"] * numbers
    export.save_state_dict(options.out, weights.model, options.to)
    notes = []
    if (weights.mean, weights.std) != IMAGENET:
        notes.append(
            f"a state dict does not say what images it wants: RGB on a 0-255 scale, mean "
            f"{_numbers(weights.mean)}, deviation {_numbers(weights.std)}; {options.to} assumes "
            f"{_numbers(IMAGENET[0])} and {_numbers(IMAGENET[1])}"
        )
    if not numbers:
        notes.append("a state dict has no names of classes")
    if weights.crop != _CROP or weights.net in ("C", "A-LRN"):
        notes.append(
            f"{options.to} has no network of net {weights.net} with a crop of {weights.crop}"
        )
    return notes


def _described(weights: Weights) -> str:
    norm = " with batch normalisation" if weights.model.batch_norm else ""
    return (
        f"net {weights.net}{norm}, {len(weights.classes)} classes, crop {weights.crop}, RGB, mean "
        f"{_numbers(weights.mean)}, deviation {_numbers(weights.std)}"
    )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="python -m vggfast.convert",
        description="Weights of VGG from torchvision, timm, the Caffe release or vggfast to a file "
        "of vggfast, or to a state dict of torchvision's or timm's.",
    )
    add: Any = p.add_argument
    files = "*.safetensors, *.pth, *.npz; or imagenet: torchvision's in torch.hub's folder"
    add("source", metavar="IN", help=files)
    add("out", metavar="OUT", type=Path, help="*.safetensors; *.pth for torchvision and timm")
    add("--to", default=OURS, help=f"{OURS} (default), {' or '.join(export.SPELLINGS)}")
    add("--classes", metavar="FILE", help="names of the classes: a line each, or JSON")
    add(
        "--preprocessing", help=f"images of a state dict: {', '.join(PREPROCESSING)} (by its names)"
    )
    add("--net", help="the configuration it has to be; of imagenet: D")
    add("--batch-norm", action=argparse.BooleanOptionalAction, help="the same of its normalisation")
    add("--force", action="store_true", help="replace OUT")
    return p
