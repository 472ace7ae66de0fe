"""Averages of posteriors: over scales, over protocols, over networks (sections 3.2 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vggfast.errors import InputError
from vggfast.evaluation.rates import Rate, top_errors, wilson
from vggfast.evaluation.scores import Scores, class_difference, difference


@dataclass(frozen=True)
class Row:
    """A line of the results: which posteriors were averaged, and the errors.

    ``scales`` are the test scales Q; ``top5`` is None where there are five classes or fewer.
    """

    net: str
    trained: str
    scales: tuple[int, ...]
    protocol: str
    top1: Rate
    top5: Rate | None


def fuse(scores: Sequence[Scores]) -> Tensor:
    """The mean over networks of the mean over protocols of the mean over scales.

    So a network weighs as much as another, whatever it was tested by, and what is given twice
    weighs as if given once. Posteriors (N, classes), float64.

    Raises:
        InputError: they are not of the same images and classes, or two are of one network, protocol
            and scale but differ in how they were made.
    """
    return _mean(_distinct(scores), [_weights, _protocol])


def check_alike(scores: Sequence[Scores]) -> None:
    """All scores have the classes, images and labels of the first.

    Raises:
        InputError: the first difference is named; or there is nothing.
    """
    if not scores:
        raise InputError("scores: got none, allowed are one or more")
    first = scores[0]
    for other in scores[1:]:
        here, there = _title(other), _title(first)
        wrong = class_difference(other.source.classes, first.source.classes)
        if wrong is None and other.names != first.names:
            wrong = _image_difference(other.names, first.names)
        if wrong is None and not torch.equal(other.labels, first.labels):
            at = int((other.labels != first.labels).nonzero()[0])
            wrong = (
                f"image {first.names[at]!r} has label {int(other.labels[at])}, "
                f"not {int(first.labels[at])}"
            )
        if wrong is not None:
            raise InputError(f"scores: {here} and {there} differ: {wrong}; allowed are the same")


def rows(scores: Sequence[Scores]) -> list[Row]:
    """Every result that these scores allow, in the order of the paper's tables.

    For each network its protocols, by single scale and by all scales, then all protocols
    together; then the same for all networks together. The last row fuses everything.
    """
    unique = _distinct(scores)
    nets = _groups(unique, _weights)
    found: list[Row] = []
    for net in nets:
        protocols = _groups(net, _protocol)
        for members in protocols:
            ordered = sorted(members, key=lambda s: s.source.scale)
            found += [_row([s]) for s in ordered] + ([_row(ordered)] if len(ordered) > 1 else [])
        if len(protocols) > 1:
            found.append(_row(net))
    if len(nets) > 1:
        shared = _groups(unique, _protocol)
        found += [_row(part) for part in shared if len(_groups(part, _weights)) == len(nets)]
        if len(shared) > 1:
            found.append(_row(unique))
    return found


def _distinct(scores: Sequence[Scores]) -> list[Scores]:
    """The scores, each of them once."""
    check_alike(scores)
    found: dict[Hashable, Scores] = {}
    for s in scores:
        same = found.setdefault((s.source.weights, s.source.protocol, s.source.scale), s)
        wrong = difference(s.source, same.source)
        if wrong is not None:
            raise InputError(
                f"scores: {_title(s)} is given twice, with {wrong}; allowed is one of the two"
            )
    return list(found.values())


def _row(scores: list[Scores]) -> Row:
    posteriors, labels = fuse(scores), scores[0].labels
    images, classes = posteriors.shape
    sources = [s.source for s in scores]
    nets = list(dict.fromkeys(s.weights for s in sources))
    name = {s.weights: s.net for s in sources}
    trained = dict.fromkeys(_range(s.trained) for s in sources)
    protocols = list(dict.fromkeys(s.protocol for s in sources))
    both = set(protocols) == {"dense", "multicrop"}
    return Row(
        net=" + ".join(name[n] for n in nets),
        trained=", ".join(trained),
        scales=tuple(sorted({s.scale for s in sources})),
        protocol="both" if both else " + ".join(protocols),
        top1=wilson(top_errors(posteriors, labels, 1), images),
        top5=wilson(top_errors(posteriors, labels, 5), images) if classes > 5 else None,
    )


def _mean(scores: list[Scores], keys: list[Callable[[Scores], Hashable]]) -> Tensor:
    if keys:
        parts = [_mean(group, keys[1:]) for group in _groups(scores, keys[0])]
    else:
        parts = [s.posteriors for s in scores]
    total = parts[0].double()
    for part in parts[1:]:
        total = total + part
    return total / len(parts)


def _groups(scores: list[Scores], key: Callable[[Scores], Hashable]) -> list[list[Scores]]:
    """Scores by key, in the order in which the keys come first."""
    found: dict[Hashable, list[Scores]] = {}
    for s in scores:
        found.setdefault(key(s), []).append(s)
    return list(found.values())


def _weights(scores: Scores) -> str:
    return scores.source.weights


def _protocol(scores: Scores) -> str:
    return scores.source.protocol


def _range(trained: tuple[int, int]) -> str:
    low, high = trained
    return str(low) if low == high else f"[{low};{high}]"


def _title(scores: Scores) -> str:
    s = scores.source
    return f"{s.file or s.net} ({s.protocol}, Q = {s.scale})"


def _image_difference(a: tuple[str, ...], b: tuple[str, ...]) -> str:
    for number, (mine, other) in enumerate(zip(a, b, strict=False)):
        if mine != other:
            return f"image {number} is {mine!r}, not {other!r}"
    return f"{len(a)} images, not {len(b)}"
