"""What a network is trained for: settings, data, loss and figures; the trainer does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from vggfast.data import DataSet, load
from vggfast.engine.settings import Settings
from vggfast.engine.staged import fine_tune_from, init_from
from vggfast.models.vgg import VGG, vgg

if TYPE_CHECKING:
    from vggfast.engine.progress import Progress


class Task(Protocol):
    """A kind of training.

    Attributes:
        settings: the class of its settings.
        measures: what the history calls the two figures beside the loss. By the first the learning
            rate is lowered and the best epoch chosen.
    """

    settings: type[Settings]
    measures: tuple[str, str]

    def load(self, settings: Settings) -> DataSet:
        """The data set; its samples' ``labels`` (N, ...) are the targets of the methods below."""
        ...

    def build(self, settings: Settings, data: DataSet) -> VGG:
        """The network on the CPU, drawn from torch's random generator."""
        ...

    def start(self, model: VGG, settings: Settings, progress: Progress) -> None:
        """Copy trained weights into a new run's model, if it is to start from some."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor, settings: Settings) -> Tensor:
        """The sum of the losses of float32 outputs (N, F)."""
        ...

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How many outputs are right by the first measure."""
        ...

    def figures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(3,), float64: sums over images of the loss that is compared, and of both measures."""
        ...


class Classification:
    """Class scores by softmax cross-entropy; measured by top-1 and top-5 accuracy."""

    settings: type[Settings] = Settings
    measures = ("accuracy", "top5")

    def load(self, settings: Settings) -> DataSet:
        return load(
            settings.data,
            size=settings.size,
            scale=settings.scales,
            flip=settings.flip,
            limit=settings.limit,
            rgb_shift=settings.rgb_shift,
            on_bad_image=settings.on_bad_image,
            workers=settings.workers,
        )

    def build(self, settings: Settings, data: DataSet) -> VGG:
        return vgg(
            settings.net,
            num_classes=len(data.classes),
            batch_norm=settings.batch_norm,
            dropout=settings.dropout,
            crop=settings.size,
            init=settings.init,
            backend=settings.backend,
        )

    def start(self, model: VGG, settings: Settings, progress: Progress) -> None:
        if settings.init_from:
            copied = init_from(model, settings.init_from)
            progress.note(f"from {settings.init_from}: {', '.join(copied)}; the rest is random")
        if settings.fine_tune_from:
            fine_tune_from(model, settings.fine_tune_from)
            progress.note(f"from {settings.fine_tune_from}: all layers")

    def loss(self, outputs: Tensor, targets: Tensor, settings: Settings) -> Tensor:
        smoothing = settings.label_smoothing
        return F.cross_entropy(outputs, targets, reduction="sum", label_smoothing=smoothing)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).sum()

    def figures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        ranked = outputs.topk(min(5, outputs.shape[1])).indices == targets[:, None]
        loss = F.cross_entropy(outputs, targets, reduction="sum")
        return torch.stack([loss, ranked[:, 0].sum(), ranked.sum()]).double()


CLASSIFICATION = Classification()
