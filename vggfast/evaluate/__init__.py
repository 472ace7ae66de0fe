"""Evaluation by the paper's protocols, and ``python -m vggfast.evaluate`` with the same options.

>>> result = vggfast.evaluate.evaluate(  # doctest: +SKIP
...     weights="runs/D/best.safetensors", data="DIR", protocol="both"
... )
>>> result.rows[-1].top5  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from vggfast.evaluation.fusion import Row
from vggfast.evaluation.progress import choose
from vggfast.evaluation.rates import Rate
from vggfast.evaluation.run import EvaluationError, Result, fuse, run
from vggfast.evaluation.scores import Scores, Source
from vggfast.evaluation.settings import Settings

__all__ = ["EvaluationError", "Rate", "Result", "Row", "Scores", "Source", "evaluate", "fuse"]

_Path = str | os.PathLike[str]


def evaluate(
    *,
    weights: _Path | Sequence[_Path],
    data: _Path,
    part: str = "val",
    protocol: str = "dense",
    scales: str | Sequence[int] = "auto",
    flips: bool | None = None,
    batch: int | None = None,
    dtype: str = "fp32",
    device: str | torch.device = "auto",
    backend: str | None = None,
    exact: bool = False,
    threads: int | None = None,
    workers: int = 0,
    limit: int | None = None,
    on_bad_image: str = "fail",
    scores: _Path | None = None,
    progress: bool = True,
) -> Result | None:
    """Top-1 and top-5 error as section 3.2 of Simonyan & Zisserman 2014 measures them.

    Args:
        weights: one network's file (``*.safetensors`` of ``vggfast.train``), or several: then
            their softmax outputs are averaged too.
        data: "digits", "mnist:DIR", "fashion-mnist:DIR", "imagenet:DIR", shards or a folder, as for
            training. Its classes must be the networks', in their order.
        part: "val" (default) or "train".
        protocol: "dense" (default: the network over the whole image), "multicrop" (5 x 5 crops),
            "both" (their average), or "single" (the centre crop).
        scales: test scales Q, such as (256, 384, 512) or "256,384,512"; "auto" (default): those
            the paper takes for the scale the network was trained at; "one": a single one.
        flips: average over mirror images too; by default yes, but not of digits.
        batch: how many crops' worth of pixels the network sees at a time; it moves no figure by
            more than rounding.
        dtype: "fp32" (default), "bf16" or "fp16", of weights and activations.
        device: "auto" (default: a GPU if there is one), "cpu", "cuda" or "cuda:N".
        backend: name of the backend to force, or "auto".
        exact: convolve by plain sums, as :func:`vggfast.exact` does.
        threads: CPU threads, as torch chooses by default; restored at the end.
        workers: processes that decode images, 0 (this one).
        limit: score this many images only, spread over the set.
        on_bad_image: "fail" (default), or "skip": an image that cannot be read is named, counted
            and left out of the figures.
        scores: folder for the posteriors of each network, protocol and scale, as Parquet; what is
            there already is used and not computed again. None keeps nothing.
        progress: show a progress bar on a terminal, lines elsewhere; on standard error.

    Returns:
        The result; None in all processes but the first, if torchrun started several.

    Raises:
        InputError: an argument or a file is not usable; the message is one line.
        EvaluationError: a network gives scores that are not finite.
    """
    paths = [weights] if isinstance(weights, str | os.PathLike) else weights
    settings = Settings(
        weights=tuple(os.fspath(path) for path in paths),
        data=os.fspath(data),
        part=part,
        protocol=protocol,
        scales=scales if isinstance(scales, str) else ",".join(map(str, scales)),
        flips=flips,
        batch=batch,
        dtype=dtype,
        device=str(device),
        backend=backend,
        exact=exact,
        threads=threads,
        workers=workers,
        limit=limit,
        on_bad_image=on_bad_image,
        scores=None if scores is None else os.fspath(scores),
    )
    return run(settings, choose(progress))
