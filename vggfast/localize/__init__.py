"""The paper's localisation, and ``python -m vggfast.localize`` with the same options.

>>> vggfast.localize.fit(  # doctest: +SKIP
...     data="imagenet:DIR", init_from="runs/D-256/best.safetensors", boxes="pcr", out="runs/boxes"
... )
>>> vggfast.localize.evaluate(  # doctest: +SKIP
...     weights="runs/boxes/best.safetensors", data="imagenet:DIR", protocol="full",
...     classifier="runs/D-256/best.safetensors",
... ).row.error
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vggfast.engine import Result as Trained
from vggfast.engine import StoppedError, TrainingError, run
from vggfast.evaluation.progress import choose
from vggfast.localization import run as measuring
from vggfast.localization.merging import THRESHOLD
from vggfast.localization.networks import LocalizationError, Options
from vggfast.localization.predicting import Located, Prediction
from vggfast.localization.predicting import predict as locate
from vggfast.localization.run import Result
from vggfast.localization.table import Row
from vggfast.localization.task import Localization

__all__ = [
    "LocalizationError", "Located", "Prediction", "Result", "Row", "StoppedError", "Trained",
    "TrainingError", "evaluate", "fit", "predict",
]  # fmt: skip

_Path = str | os.PathLike[str]


def fit(
    *,
    data: _Path | None = None,
    init_from: _Path | None = None,
    boxes: str | None = None,
    tune: str | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    accumulate: int | None = None,
    micro_batch: int | None = None,
    lr: float | None = None,
    schedule: str | None = None,
    warmup: float | None = None,
    patience: int | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    dropout: float | None = None,
    ema: float | None = None,
    scale: str | None = None,
    flip: bool | None = None,
    on_bad_image: str | None = None,
    seed: int | None = None,
    limit: int | None = None,
    dtype: str | None = None,
    backend: str | None = None,
    exact: bool | None = None,
    device: str | torch.device | None = None,
    threads: int | None = None,
    workers: int | None = None,
    checkpoint_every: int | str | None = None,
    out: _Path | None = None,
    resume: bool | _Path = False,
    tensorboard: bool | None = None,
    progress: bool = True,
) -> Trained:
    """Train a network that gives boxes, starting from one that classifies.

    The last FC layer is trained from scratch with the Euclidean loss of the true class's box; the
    layers before it start from ``init_from``. What is not named here is as
    :func:`vggfast.train.fit` has it; ``best_accuracy`` of the result is the best share of
    validation images with an IoU above 0.5, in the centre crop and with the true class.

    Args:
        data: "imagenet:DIR", "voc:DIR" or "boxes:FILE.csv" (docs/localization.md).
        init_from: weights of the classification network, whose configuration, crop, classes and
            colours the run takes over. Not asked for again by ``resume``.
        boxes: "pcr" (default: a box for each class) or "scr" (one for all classes).
        tune: "all" (default) layers, or "fc": the first two FC layers and the new last one.
        lr: 1e-3 by default.
        scale: "S", or "SMIN:SMAX"; by default as the classification network was trained.
        flip: mirror training images at random, by default.
        on_bad_image: "fail" (default) or "skip": an image that cannot be read, has a box outside
            it or without area, or other proportions than the one that was annotated.

    Raises:
        InputError, TrainingError, StoppedError: as :func:`vggfast.train.fit`.
    """
    given: dict[str, Any] = dict(locals())
    del given["resume"], given["progress"]
    if isinstance(device, torch.device):
        given["device"] = str(device)
    for name in ("data", "init_from", "out"):
        if given[name] is not None:
            given[name] = os.fspath(given[name])
    if checkpoint_every is not None:
        given["checkpoint_every"] = str(checkpoint_every)
    return run(
        given, resume=resume if isinstance(resume, bool) else os.fspath(resume), shown=progress,
        task=Localization(),
    )  # fmt: skip


def evaluate(
    *,
    weights: _Path | Sequence[_Path],
    data: _Path,
    part: str = "val",
    protocol: str = "centre",
    classifier: _Path | Sequence[_Path] = (),
    scales: str | Sequence[int] = "one",
    top: int = 5,
    merge_threshold: float = THRESHOLD,
    flips: bool = True,
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
) -> Result | None:
    """The localisation error: the share of images without a box of the right class and IoU > 0.5.

    Args:
        weights: one network's file, of :func:`fit`; for "full" also several, whose boxes are
            merged together.
        data: as for :func:`fit`; a class that the networks have not is refused.
        part: "val" (default) or "train".
        protocol: "centre" (default): the box of the true class in the centre crop; or "full": the
            boxes of the ``top`` likeliest classes, of which one must be right, by dense
            application and merging.
        classifier: for "full": weights of one classification network or several, of which the
            posteriors are averaged.
        scales: test scales Q, as :func:`vggfast.evaluate.evaluate` takes them; "one" (default):
            the scale the first network was trained at.
        top: 5.
        merge_threshold: t of merging (vggfast/localization/merging.py).
        flips: average the classes' posteriors over mirror images too.
        batch: how many crops' worth of pixels the networks see at a time.
        on_bad_image: as for :func:`fit`; what is skipped is not counted.
        dtype, device, backend, exact, threads, workers, limit, progress: as for
            :func:`vggfast.evaluate.evaluate`.

    Returns:
        The result; None in all processes but the first, if torchrun started several.

    Raises:
        InputError: an argument or a file is not usable; the message is one line.
        LocalizationError: a network gives boxes that are not finite.
    """
    settings = measuring.Settings(
        data=os.fspath(data),
        part=part,
        protocol=protocol,
        limit=limit,
        on_bad_image=on_bad_image,
        options=Options(
            weights=_paths(weights),
            classifiers=_paths(classifier),
            scales=_scales(scales),
            top=top,
            merge_threshold=merge_threshold,
            flips=flips,
            batch=batch,
            dtype=dtype,
            device=str(device),
            backend=backend,
            exact=exact,
            threads=threads,
            workers=workers,
        ),
    )
    return measuring.run(settings, choose(progress))


def predict(
    images: _Path | Sequence[_Path],
    *,
    weights: _Path | Sequence[_Path],
    classifier: _Path | Sequence[_Path] = (),
    out: _Path | None = None,
    scales: str | Sequence[int] = "one",
    top: int = 1,
    merge_threshold: float = THRESHOLD,
    flips: bool = True,
    batch: int | None = None,
    dtype: str = "fp32",
    device: str | torch.device = "auto",
    backend: str | None = None,
    exact: bool = False,
    threads: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> list[Prediction]:
    """The likeliest classes of image files, each with its box, by the full protocol.

    Args:
        images: files.
        out: folder for a picture of each image with the boxes drawn on it (NAME.png), and
            ``boxes.json``; None writes nothing.
        top: how many classes, 1.
        weights, classifier and the others: as for :func:`evaluate`.

    Returns:
        One prediction an image, in their order.

    Raises:
        InputError: an argument or a file is not usable; the message is one line.
        LocalizationError: a network gives boxes that are not finite.
    """
    options = Options(
        weights=_paths(weights),
        classifiers=_paths(classifier),
        scales=_scales(scales),
        top=top,
        merge_threshold=merge_threshold,
        flips=flips,
        batch=batch,
        dtype=dtype,
        device=str(device),
        backend=backend,
        exact=exact,
        threads=threads,
        workers=workers,
    )
    files = [Path(path) for path in _paths(images)]
    return locate(files, options, None if out is None else Path(out), choose(progress))


def _paths(given: _Path | Sequence[_Path]) -> tuple[str, ...]:
    several = [given] if isinstance(given, str | os.PathLike) else given
    return tuple(os.fspath(path) for path in several)


def _scales(given: str | Sequence[int]) -> str:
    return given if isinstance(given, str) else ",".join(map(str, given))
