"""Features of a trained network for other tasks, and ``python -m vggfast.features``.

>>> vggfast.features.extract(  # doctest: +SKIP
...     weights="D.safetensors", data="voc2007:DIR", out="features/D", scales=(256, 384, 512)
... )
>>> vggfast.features.classify("features/D").figures["mAP, 11 points"]  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from vggfast.evaluation.progress import choose
from vggfast.transfer import benchmarks
from vggfast.transfer.benchmarks import BENCHMARKS, Outcome
from vggfast.transfer.extraction import ExtractionError, Summary, run
from vggfast.transfer.reader import Features, load, stack
from vggfast.transfer.settings import Settings
from vggfast.transfer.svm import GRID

__all__ = ["ExtractionError", "Features", "Outcome", "Summary", "classify", "extract", "load"]

_Path = str | os.PathLike[str]


def extract(
    *,
    weights: _Path | Sequence[_Path],
    data: _Path,
    out: _Path,
    part: str = "all",
    layer: str = "relu7",
    scales: str | Sequence[int] = "auto",
    combine: str = "average",
    normalise: bool = True,
    flips: bool | None = None,
    boxes: _Path | None = None,
    region: str | None = None,
    format: str = "safetensors",
    shard_size: int = 1024,
    batch: int | None = None,
    dtype: str = "fp32",
    device: str | torch.device = "auto",
    backend: str | None = None,
    exact: bool = False,
    threads: int | None = None,
    workers: int = 0,
    limit: int | None = None,
    on_bad_image: str = "fail",
    progress: bool = True,
) -> Summary | None:
    """Write features of images, or of boxes in them, to a folder, and go on where a run stopped.

    Each image is rescaled so that its shorter side is Q, the network applied to all of it, and the
    activations averaged over places and over the mirror image; docs/transfer.md has the formula.

    Args:
        weights: a network's file (``*.safetensors`` of ``vggfast.train``), or several, which are
            stacked.
        data: "voc2007:DIR", "voc2012:DIR", "voc-action:DIR", "caltech101:DIR", "caltech256:DIR",
            "images:DIR" (without classes), or what :func:`vggfast.train.fit` takes.
        out: the folder. If it has a part of the same run, that is continued.
        part: "all" (default), or parts of the set with commas between, as "train,val".
        layer: "relu7" (default: the activations before the last FC layer), or another of
            :mod:`vggfast.taps.names`, as "relu5_3", "fc6".
        scales: as for :func:`vggfast.evaluate.evaluate`.
        combine: "average" (default) scales, or "stack" them.
        normalise: give each descriptor the length 1, and each of its parts the same length.
        flips: average over mirror images too; by default yes, but not of digits.
        boxes: boxes in the images (:mod:`vggfast.transfer.boxes`): a vector for each.
        region: "image", "box" or "both", stacked: of what, where there are boxes ("box").
        format: of the shards: "safetensors" (default) or "parquet".
        shard_size: vectors a shard.
        batch: how many crops' worth of pixels the network sees at a time.
        dtype: "fp32" (default), "bf16" or "fp16", of weights and activations.
        device: "auto" (default: a GPU if there is one), "cpu", "cuda" or "cuda:N".
        backend: name of the backend to force, or "auto".
        exact: convolve by plain sums, as :func:`vggfast.exact` does.
        threads: CPU threads, as torch chooses by default; restored at the end.
        workers: processes that decode images, 0 (this one).
        limit: this many images of each part only, spread over it.
        on_bad_image: "fail" (default), or "skip": an image that cannot be read is named, and has
            no vector.
        progress: show a progress bar on a terminal, lines elsewhere; on standard error.

    Returns:
        What there is; None in all processes but the first, if torchrun started several.

    Raises:
        InputError: an argument or a file is not usable, or ``out`` is of other settings; the
            message is one line.
        ExtractionError: a network gives features that are not finite.
    """
    paths = [weights] if isinstance(weights, str | os.PathLike) else weights
    settings = Settings(
        weights=tuple(os.fspath(path) for path in paths),
        data=os.fspath(data),
        out=os.fspath(out),
        part=part,
        layer=layer,
        scales=scales if isinstance(scales, str) else ",".join(map(str, scales)),
        combine=combine,
        normalise=normalise,
        flips=flips,
        boxes=None if boxes is None else os.fspath(boxes),
        region=region,
        format=format,
        shard_size=shard_size,
        batch=batch,
        dtype=dtype,
        device=str(device),
        backend=backend,
        exact=exact,
        threads=threads,
        workers=workers,
        limit=limit,
        on_bad_image=on_bad_image,
    )
    return run(settings, choose(progress))


def classify(
    features: _Path | Features | Sequence[_Path | Features],
    *,
    benchmark: str | None = None,
    train: str | None = None,
    test: str | None = None,
    splits: int | None = None,
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    c: Sequence[float] = GRID,
    seed: int = 0,
) -> Outcome:
    """Train linear SVMs on features and score them as the data set's benchmark does.

    Args:
        features: a folder of :func:`extract`, or several of the same images, which are stacked; or
            what :func:`load` gives.
        benchmark: one of :data:`vggfast.transfer.benchmarks.BENCHMARKS`; by default the data
            set's, and "accuracy" for a set that has none.
        train, test: parts to train on and to test with, as "train,val"; by default the benchmark's.
        splits: random splits of the two Caltech sets, 3.
        train_per_class, test_per_class: images of such a split; by default the benchmark's.
        c: what C may be.
        seed: of splits.

    Raises:
        InputError: an argument or a file is not usable; the message is one line.
    """
    single = isinstance(features, str | os.PathLike | Features)
    given = [features] if single else list(features)  # type: ignore[arg-type]
    found = stack([f if isinstance(f, Features) else load(f) for f in given])  # type: ignore[arg-type]
    kind = found.manifest["kind"]
    name = benchmark or (kind if kind in BENCHMARKS else "accuracy")
    return benchmarks.score(
        found, name, train=_parts(train), test=_parts(test), splits=splits,
        train_per_class=train_per_class, test_per_class=test_per_class, grid=c, seed=seed,
    )  # fmt: skip


def _parts(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",")]
