"""Training: :func:`fit`, and ``python -m vggfast.train``, whose options are the same.

>>> result = vggfast.train.fit(net="A", data="digits", epochs=12)  # doctest: +SKIP
>>> result.best_accuracy  # doctest: +SKIP
"""

from __future__ import annotations

import os

import torch

from vggfast.engine import (
    Evaluation,
    History,
    Result,
    Row,
    StoppedError,
    TrainingError,
    evaluate,
    run,
)  # fmt: skip

__all__ = [
    "Evaluation", "History", "Result", "Row", "StoppedError", "TrainingError", "evaluate", "fit",
]  # fmt: skip


def fit(
    *,
    recipe: str | None = None,
    net: str | None = None,
    data: str | os.PathLike[str] | None = None,
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
    label_smoothing: float | None = None,
    ema: float | None = None,
    size: int | None = None,
    scale: str | None = None,
    flip: bool | None = None,
    rgb_shift: str | None = None,
    on_bad_image: str | None = None,
    init: str | None = None,
    init_from: str | os.PathLike[str] | None = None,
    fine_tune_from: str | os.PathLike[str] | None = None,
    batch_norm: bool | None = None,
    seed: int | None = None,
    limit: int | None = None,
    dtype: str | None = None,
    backend: str | None = None,
    exact: bool | None = None,
    graph: bool | None = None,
    device: str | torch.device | None = None,
    threads: int | None = None,
    workers: int | None = None,
    checkpoint_every: int | str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool | str | os.PathLike[str] = False,
    tensorboard: bool | None = None,
    progress: bool = True,
) -> Result:
    """Train a VGG by the recipe of Simonyan & Zisserman 2014, section 3.1, or a newer one.

    SGD with momentum on the cross-entropy, L2 weight decay, dropout, a learning rate divided by
    10 (at most three times) when the validation accuracy has stopped improving. None means what
    the recipe has, or else the default, or with ``resume`` what the checkpoint's run has. The same
    call gives the same numbers again, on one machine and thread count. Under torchrun each process
    takes a share of every batch.

    Args:
        recipe: "paper" or "modern", presets of the settings below (docs/training.md).
        net: "A" (default), "A-LRN", "B", "C", "D" or "E".
        data: "digits" (default: scikit-learn's), "mnist:DIR" or "fashion-mnist:DIR" (IDX files,
            plain or .gz), or photographs: a folder with train/CLASS/*.jpg and val/CLASS/*,
            "imagenet:DIR" or shards.
        epochs: passes over the training set, 12, for photographs 74.
        batch: images a step, over all processes, 32, for photographs 256.
        accumulate: pieces in which a process computes its share of a batch, for less memory, 1.
        micro_batch: instead, the most images of such a piece.
        lr: learning rate at the start, or the highest of a cosine, 0.01.
        schedule: "plateau" (default), or "cosine": down to 0 along half a cosine, step by step.
        warmup: share of the steps in which a cosine's rate first rises from 0, 0.
        patience: epochs without improvement that are let pass; after one more the rate drops, 5.
        momentum: 0.9.
        weight_decay: 5e-4.
        dropout: after the first two FC layers, 0.5.
        label_smoothing: share of the target that is spread over all classes, 0.
        ema: decay of an exponential moving average of the weights, which is then what is validated
            and kept as best; 0 (default): none.
        size: side of the square images the network sees, a multiple of 32; 32, for photographs
            224.
        scale: "S" or "SMIN:SMAX", to which a photograph's shorter side is rescaled, 8/7 of size.
        flip: mirror training images at random; by default yes, but not digits.
        rgb_shift: "none" (default); "train" or "imagenet": move each training image's colours along
            the principal axes of the training set's, or of ILSVRC's published ones.
        on_bad_image: what a photograph that cannot be read does: "fail" (default) ends the run,
            "skip" replaces it by the next one, or leaves it out of validation; it is named.
        init: "kaiming" (default; in FC layers too, by inputs), "glorot" or "normal".
        init_from: weights of a trained net A (``best.safetensors``), of which the first four
            convolutions and the FC layers are copied, as the paper does for deeper nets.
        fine_tune_from: weights of the same net, of which all layers are copied.
        batch_norm: batch normalisation after each convolution, False.
        seed: of weights, order, augmentation and dropout, 0.
        limit: train on this many images only, spread over the training set.
        dtype: "fp32" (default), "bf16" or "fp16": autocast, with float32 weights; "auto": bf16 on
            a GPU that has it, else fp32.
        backend: name of the backend to force, or "auto" (default).
        exact: convolve by plain sums, as :func:`vggfast.exact` does, False.
        graph: launch a training step as one CUDA graph (``vggfast.capture_step``), False. Needs a
            CUDA device, fp32 or bf16; a last batch with fewer images is an ordinary step.
        device: "auto" (default: a GPU if there is one), "cpu", "cuda" or "cuda:N".
        threads: CPU threads, as torch chooses by default; restored at the end.
        workers: processes that read images, 0 (this one).
        checkpoint_every: write ``last.pt`` within epochs too, every so many steps (500) or minutes
            ("10m"); by default only after each epoch.
        out: folder for ``last.pt``, ``best.safetensors``, ``history.csv`` and the like; None writes
            nothing.
        resume: True continues ``last.pt`` in ``out``; a path continues that checkpoint, or that
            folder's ``last.pt``, in its folder unless ``out`` says otherwise. The numbers are those
            of an uninterrupted run.
        tensorboard: write TensorBoard scalars to ``out``/tensorboard, False.
        progress: show a progress bar on a terminal, lines elsewhere.

    Returns:
        Model, history, best accuracy and the like.

    Raises:
        InputError: an argument, a file or a checkpoint is not usable; the message is one line.
        TrainingError: the loss is no longer finite; the last checkpoint stays as it was.
        StoppedError: the process got SIGTERM; a checkpoint holds the step it had come to.
    """
    given = dict(locals())
    del given["resume"], given["progress"]
    if isinstance(device, torch.device):
        given["device"] = str(device)
    for name in ("data", "out", "init_from", "fine_tune_from"):
        if given[name] is not None:
            given[name] = os.fspath(given[name])
    if checkpoint_every is not None:
        given["checkpoint_every"] = str(checkpoint_every)
    return run(
        given, resume=resume if isinstance(resume, bool) else os.fspath(resume), shown=progress
    )
