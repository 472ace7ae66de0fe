"""What the trainer needs to train boxes: data, network, Euclidean loss, share of right boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from vggfast.data import DataSet
from vggfast.engine.progress import Progress
from vggfast.engine.settings import Settings
from vggfast.errors import InputError
from vggfast.localization.boxes import decode, iou
from vggfast.localization.readers import find
from vggfast.localization.samples import box_set
from vggfast.localization.settings import BoxSettings
from vggfast.models.boxes import BoxRegressor, of_class
from vggfast.models.vgg import VGG
from vggfast.weights.format import first_mismatch, read

ENOUGH = 0.5  # a box is right where its IoU with the true one is more
LAST = ("classifier.6.weight", "classifier.6.bias")  # trained from scratch


class Localization:
    """Boxes by the Euclidean loss; measured by the share whose IoU is above 0.5, and mean IoU.

    Targets are (N, 5): a class number, and the box (boxes.py).
    """

    settings: type[Settings] = BoxSettings
    measures = ("localised", "mean_iou")

    def load(self, settings: Settings) -> DataSet:
        assert isinstance(settings, BoxSettings)
        checked = settings.on_bad_image == "fail"
        train = find(
            settings.data, "train", settings.classes,
            limit=settings.limit, complete=True, checked=checked,
        )  # fmt: skip
        return box_set(
            train,
            find(settings.data, "val", settings.classes, checked=checked),
            size=settings.size,
            scale=settings.scales,
            flip=settings.flip is not False,
            mean=settings.mean,
            std=settings.std,
            on_bad_image=settings.on_bad_image,
        )

    def build(self, settings: Settings, data: DataSet) -> VGG:
        assert isinstance(settings, BoxSettings)
        model = BoxRegressor(
            settings.net,
            boxes=settings.boxes,
            classes=len(data.classes),
            batch_norm=settings.batch_norm,
            dropout=settings.dropout,
            crop=settings.size,
            init=settings.init,
            backend=settings.backend,
        )
        if settings.tune == "fc":
            model.freeze_features()
        return model

    @torch.no_grad()
    def start(self, model: VGG, settings: Settings, progress: Progress) -> None:
        path = str(settings.init_from)
        _, theirs = read(path)
        own = {name: t for name, t in model.state_dict().items() if name not in LAST}
        wrong = first_mismatch(own, {name: t for name, t in theirs.items() if name not in LAST})
        if wrong is not None:
            raise InputError(
                f"init_from: {path} is not the net {settings.net} that it says ({wrong}); allowed "
                "is a file of vggfast.train"
            )
        for name, tensor in own.items():
            tensor.copy_(theirs[name])
        progress.note(f"from {path}: all layers but the last")

    def loss(self, outputs: Tensor, targets: Tensor, settings: Settings) -> Tensor:
        return euclidean(outputs, targets)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (overlaps(outputs, targets) > ENOUGH).sum()

    def figures(self, outputs: Tensor, targets: Tensor) -> Tensor:
        found = overlaps(outputs, targets)
        sums = [euclidean(outputs, targets), (found > ENOUGH).sum(), found.sum()]
        return torch.stack([s.double() for s in sums])


def euclidean(outputs: Tensor, targets: Tensor) -> Tensor:
    """The sum over crops of |box - target|^2 / 2, the box being that of the true class.

    Args:
        outputs: a regressor's, (N, 4) or (N, 4 classes).
        targets: (N, 5): class number and box.

    Returns:
        (). Boxes of other classes have no gradient.
    """
    boxes = of_class(outputs, targets[:, :1].long())[:, 0]
    return (boxes - targets[:, 1:]).square().sum() / 2


def overlaps(outputs: Tensor, targets: Tensor) -> Tensor:
    """IoU (N,) of each crop's box of the true class with the target."""
    boxes = of_class(outputs, targets[:, :1].long())[:, 0]
    corner = boxes.new_zeros(2)
    return iou(decode(boxes, corner, 2), decode(targets[:, 1:], corner, 2))
