"""The settings of a training run: one table of names, defaults and what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from vggfast import backends
from vggfast.configs import DOWNSAMPLING, check_net
from vggfast.data import parse_spec
from vggfast.errors import InputError
from vggfast.models.init import INITS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# What depends on the kind of data. Photographs: the paper's recipe (section 3.1). The small sets
# see fewer images, so smaller batches, and few epochs reach what they can reach.
SMALL = {"size": 32, "batch": 32, "epochs": 12}
PHOTOGRAPHS = {"size": 224, "batch": 256, "epochs": 74}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; :func:`vggfast.train.fit` documents them. Build with :meth:`make`."""

    net: str = "A"
    data: str = "digits"
    epochs: int = 0
    batch: int = 0
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: float = 0.5
    patience: int = 5
    size: int = 0
    scale: str = ""
    flip: bool | None = None
    init: str = "kaiming"
    batch_norm: bool = False
    seed: int = 0
    limit: int | None = None
    dtype: str = "fp32"
    backend: str | None = None
    exact: bool = False
    graph: bool = False
    device: str = "auto"
    threads: int | None = None
    workers: int = 0
    out: str | None = None
    tensorboard: bool = False

    # What a resumed run may change without becoming another run.
    FREE = (
        "data",
        "epochs",
        "backend",
        "exact",
        "graph",
        "device",
        "threads",
        "workers",
        "out",
        "tensorboard",
    )

    @classmethod
    def make(cls, given: dict[str, Any], saved: dict[str, Any] | None = None) -> Settings:
        """Settings from what was ``given`` (None: not given), the rest from ``saved`` or defaults.

        Raises:
            InputError: a value out of range, or one that differs from the run being resumed.
        """
        unknown = set(saved or {}) - {f.name for f in fields(cls)}
        if unknown:
            raise InputError(
                f"resume: the checkpoint has the unknown setting {min(unknown)!r}; allowed is a "
                "checkpoint of this version"
            )
        chosen = {name: value for name, value in given.items() if value is not None}
        for name, value in (saved or {}).items():
            if name not in cls.FREE and chosen.get(name, value) != value:
                raise InputError(
                    f"{name}: got {chosen[name]!r}, but the checkpoint's run has {value!r}; "
                    "allowed is the same, or a new run"
                )
        merged = {**(saved or {}), **chosen}
        data = merged.get("data", cls.data)
        _text("data", data)
        by_kind = PHOTOGRAPHS if parse_spec(data)[0] == "folder" else SMALL
        settings = cls(**{**by_kind, **merged})
        settings._check()
        return settings

    def saved(self) -> dict[str, Any]:
        """Plain values for a checkpoint; the output folder is where the checkpoint lies."""
        return {name: value for name, value in asdict(self).items() if name != "out"}

    @property
    def scales(self) -> tuple[int, int]:
        """(S_min, S_max) of photographs; by default S = 256 for a crop of 224, in proportion."""
        if not self.scale:
            s = round(self.size * 256 / 224)
            return s, s
        low, _, high = self.scale.partition(":")
        return int(low), int(high or low)

    @property
    def torch_device(self) -> torch.device:
        """The device, "auto" resolved: a GPU if torch sees one."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def _check(self) -> None:
        check_net(self.net)
        for name in ("epochs", "batch", "threads", "limit"):
            _integer(name, getattr(self, name), 1, optional=name in ("threads", "limit"))
        for name in ("patience", "workers", "seed"):
            _integer(name, getattr(self, name), 0)
        _real("lr", self.lr, 0, math.inf, "a finite number above 0", open_low=True)
        _real("momentum", self.momentum, 0, 1, "0 <= momentum < 1")
        _real("weight_decay", self.weight_decay, 0, math.inf, "a finite number from 0 up")
        _real("dropout", self.dropout, 0, 1, "0 <= dropout < 1")
        if self.seed >= 2**32:
            raise InputError(f"seed: got {self.seed}, allowed are whole numbers below 2^32")
        _integer("size", self.size, DOWNSAMPLING)
        if self.size % DOWNSAMPLING:
            raise InputError(f"size: got {self.size}, allowed are multiples of {DOWNSAMPLING}")
        _scale(self.scale, self.size)
        _one_of("init", self.init, INITS)
        _one_of("dtype", self.dtype, DTYPES)
        if self.backend not in (None, "auto"):
            backends.get(str(self.backend))
        _device(self.device)
        if self.graph and self.torch_device.type != "cuda":
            raise InputError("graph: got True on the CPU, allowed is with a CUDA device")
        if self.graph and self.dtype == "fp16":
            raise InputError(
                "graph: got True with dtype fp16, whose gradient scaler waits for the GPU; allowed "
                "are fp32 and bf16"
            )


def _text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name}: got {value!r}, allowed is a string")


def _integer(name: str, value: object, low: int, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{name}: got {value!r}, allowed are whole numbers from {low} up")


def _real(
    name: str, value: object, low: float, high: float, allowed: str, open_low: bool = False
) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= float(value) < high or (open_low and value == low):  # type: ignore[arg-type]
        raise InputError(f"{name}: got {value!r}, allowed is {allowed}")


def _one_of(name: str, value: object, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name}: got {value!r}, allowed are {', '.join(allowed)}")


def _scale(scale: str, size: int) -> None:
    if not scale:
        return
    parts = scale.split(":")
    whole = len(parts) <= 2 and all(p.isdecimal() for p in parts)
    if not whole or not size <= int(parts[0]) <= int(parts[-1]):
        raise InputError(
            f"scale: got {scale!r}, allowed are S or SMIN:SMAX with {size} (size) <= SMIN <= SMAX"
        )


def _device(name: str) -> None:
    if name in ("auto", "cpu"):
        return
    count = torch.cuda.device_count()
    seen = ["cuda", *(f"cuda:{i}" for i in range(count))] if count else []
    if name not in seen:
        raise InputError(
            f"device: got {name!r}, allowed here are {', '.join(['auto', 'cpu', *seen])}"
        )
