"""The settings of a training run for boxes: those of any run, and what localisation adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vggfast.engine import checks
from vggfast.engine.settings import Settings
from vggfast.errors import InputError
from vggfast.models.boxes import BOXES
from vggfast.weights import load_weights

TUNES = ("fc", "all")


@dataclass(frozen=True, kw_only=True)
class BoxSettings(Settings):
    """:func:`vggfast.localize.fit` documents them.

    Network, crop, batch normalisation, classes and colours are those of the classification network
    ``init_from``; they are kept here, so that a run is continued without that file.
    """

    lr: float = 1e-3
    boxes: str = "pcr"
    tune: str = "all"
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def make(cls, given: dict[str, Any], saved: dict[str, Any] | None = None) -> BoxSettings:
        """As :meth:`Settings.make`; what follows from ``init_from`` is read from there."""
        chosen = {name: value for name, value in given.items() if value is not None}
        if saved is None:
            if "init_from" not in chosen:
                raise InputError(
                    "init_from: got none, allowed is the weights file of a classification network"
                )
            chosen = {**_of_network(chosen["init_from"]), **chosen}
        elif "boxes" not in saved:
            raise InputError(
                "resume: the checkpoint is of vggfast.train; allowed is one of vggfast.localize"
            )
        made = super().make(chosen, saved)
        assert isinstance(made, cls)
        return made

    def _check(self) -> None:
        super()._check()
        checks.one_of("boxes", self.boxes, BOXES)
        checks.one_of("tune", self.tune, TUNES)


def _of_network(path: str) -> dict[str, Any]:
    """What a weights file settles."""
    weights = load_weights(path)
    low, high = weights.scale
    return {
        "net": weights.net,
        "size": weights.crop,
        "batch_norm": weights.model.batch_norm,
        "scale": f"{low}:{high}",
        "classes": weights.classes,
        "mean": weights.mean,
        "std": weights.std,
    }
