"""What a checkpoint holds of a trainer, and how a trainer continues from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from vggfast.engine import checkpoint
from vggfast.engine.history import History

if TYPE_CHECKING:
    from vggfast.engine.trainer import Trainer


@dataclass
class Best:
    """The best validation accuracy so far, and its epoch (0: none yet)."""

    accuracy: float = -1.0
    epoch: int = 0


@dataclass
class Position:
    """How far an epoch has come: steps, and over their images the sum of the losses, how many were
    classified rightly, the seconds it took, and those in which the loop waited for images."""

    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    seconds: float = 0.0
    waited: float = 0.0


def of(trainer: Trainer) -> dict[str, Any]:
    """Everything a checkpoint holds; the model under torchvision's parameter names.

    Every process must call it, as each brings its random generators' states.
    """
    data = trainer.data
    return {
        "format": checkpoint.FORMAT,
        "epoch": trainer.done,
        "position": asdict(trainer.at),
        "model": trainer.model.state_dict(),
        "ema": None if trainer.ema is None else trainer.ema.state_dict(),
        "optimizer": trainer.step.optimizer.state_dict(),
        "schedule": trainer.schedule.state_dict(),
        "scaler": trainer.step.scaler.state_dict(),
        "rng": trainer.world.gather(checkpoint.rng_state()),
        "settings": trainer.settings.saved(),
        "data": {
            "classes": list(data.classes),
            "mean": list(data.mean),
            "std": list(data.std),
            "images": len(data.train),
        },
        "best": [trainer.best.accuracy, trainer.best.epoch],
        "history": trainer.history.state(),
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Continue from a checkpoint of the same network and data.

    A process that had no part in the run so far, because there are more of them now, keeps the
    random generators it has.
    """
    trainer.model.load_state_dict(state["model"])
    if trainer.ema is not None:
        trainer.ema.load_state_dict(state["ema"])
    trainer.step.optimizer.load_state_dict(state["optimizer"])
    trainer.schedule.load_state_dict(state["schedule"])
    trainer.step.scaler.load_state_dict(state["scaler"])
    trainer.history, trainer.best = History.from_state(state["history"]), Best(*state["best"])
    trainer.at = Position(**state["position"])
    trainer.kept = trainer.done, trainer.at.step
    if trainer.world.rank < len(state["rng"]):
        checkpoint.set_rng_state(state["rng"][trainer.world.rank])
