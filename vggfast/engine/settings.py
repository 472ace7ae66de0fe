"""The settings of a training run: one table of names, defaults and what is allowed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from vggfast import backends
from vggfast.configs import DOWNSAMPLING, check_net
from vggfast.data.colour import RGB_SHIFTS
from vggfast.data.photos import ON_BAD_IMAGE
from vggfast.engine import checks
from vggfast.engine.recipes import RECIPES, defaults, photographs
from vggfast.engine.schedule import SCHEDULES
from vggfast.errors import InputError
from vggfast.models.init import INITS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings; :func:`vggfast.train.fit` documents them. Build with :meth:`make`."""

    recipe: str = ""
    net: str = "A"
    data: str = "digits"
    epochs: int = 0
    batch: int = 0
    accumulate: int = 1
    micro_batch: int | None = None
    lr: float = 0.01
    schedule: str = "plateau"
    warmup: float = 0.0
    patience: int = 5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: float = 0.5
    label_smoothing: float = 0.0
    ema: float = 0.0
    size: int = 0
    scale: str = ""
    flip: bool | None = None
    rgb_shift: str = "none"
    on_bad_image: str = "fail"
    init: str = "kaiming"
    init_from: str | None = None
    fine_tune_from: str | None = None
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
    checkpoint_every: str = ""
    out: str | None = None
    tensorboard: bool = False

    # What a resumed run may change without becoming another run.
    FREE = (
        "data", "epochs", "accumulate", "micro_batch", "on_bad_image", "backend", "exact", "graph",
        "device", "threads", "workers", "checkpoint_every", "out", "tensorboard",
    )  # fmt: skip

    @classmethod
    def make(cls, given: dict[str, Any], saved: dict[str, Any] | None = None) -> Settings:
        """Settings from what was ``given`` (None: not given), the rest from ``saved``, or else from
        the recipe or the defaults.

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
        recipe = chosen.get("recipe")
        if recipe is not None:
            checks.one_of("recipe", recipe, RECIPES)
        merged = {**(saved or {}), **chosen}
        data = merged.get("data", cls.data)
        checks.text("data", data)
        settings = cls(**{**defaults(recipe, data), **merged})
        settings._check()
        if saved and settings.schedule == "cosine" and settings.epochs != saved["epochs"]:
            raise InputError(
                f"epochs: got {settings.epochs}, but the checkpoint's run has {saved['epochs']}, "
                "on which its cosine schedule depends; allowed is the same, or a new run"
            )
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
    def trained_scale(self) -> tuple[int, int]:
        """What weights files state as the scale; the small sets are resized to the crop itself."""
        return self.scales if photographs(self.data) else (self.size, self.size)

    @property
    def torch_device(self) -> torch.device:
        """The device, "auto" resolved: a GPU if torch sees one."""
        return checks.resolved_device(self.device)

    @property
    def checkpoint_interval(self) -> tuple[int, float]:
        """(steps, seconds) between checkpoints within an epoch; 0: not by this measure."""
        return checks.interval(self.checkpoint_every)

    def compute_dtype(self, device: torch.device) -> torch.dtype:
        """What the network computes in; "auto" is bf16 on a GPU that has it."""
        if self.dtype != "auto":
            return DTYPES[self.dtype]
        if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
            return torch.bfloat16
        return torch.float32

    def pieces(self, images: int) -> int:
        """The images of a piece, when a process has ``images`` of a batch to compute."""
        return max(1, self.micro_batch or -(-images // self.accumulate))

    def _check(self) -> None:
        check_net(self.net)
        for name in ("epochs", "batch", "accumulate", "micro_batch", "threads", "limit"):
            optional = name in ("micro_batch", "threads", "limit")
            checks.integer(name, getattr(self, name), 1, optional)
        for name in ("patience", "workers", "seed"):
            checks.integer(name, getattr(self, name), 0)
        if self.seed >= 2**32:
            raise InputError(f"seed: got {self.seed}, allowed are whole numbers below 2^32")
        for name in ("batch_norm", "exact", "graph", "tensorboard", "flip"):
            checks.boolean(name, getattr(self, name), optional=name == "flip")
        checks.real("lr", self.lr, 0, math.inf, "a finite number above 0", open_low=True)
        checks.real("weight_decay", self.weight_decay, 0, math.inf, "a finite number from 0 up")
        for name in ("momentum", "dropout", "warmup", "label_smoothing", "ema"):
            checks.real(name, getattr(self, name), 0, 1, f"0 <= {name} < 1")
        checks.integer("size", self.size, DOWNSAMPLING)
        if self.size % DOWNSAMPLING:
            raise InputError(f"size: got {self.size}, allowed are multiples of {DOWNSAMPLING}")
        checks.scale(self.scale, self.size)
        checks.one_of("schedule", self.schedule, SCHEDULES)
        checks.one_of("init", self.init, INITS)
        checks.one_of("rgb_shift", self.rgb_shift, RGB_SHIFTS)
        checks.one_of("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        checks.one_of("dtype", self.dtype, (*DTYPES, "auto"))
        checks.interval(self.checkpoint_every)
        if self.backend not in (None, "auto"):
            backends.get(str(self.backend))
        checks.device(self.device)
        self._check_pairs()

    def _check_pairs(self) -> None:
        """Settings that do not go together."""
        if self.warmup and self.schedule != "cosine":
            raise InputError(
                f"warmup: got {self.warmup} with schedule {self.schedule}, allowed is with cosine"
            )
        if self.micro_batch is not None and self.accumulate != 1:
            raise InputError(
                f"micro_batch: got {self.micro_batch} and accumulate {self.accumulate}, allowed is "
                "one of them"
            )
        if self.init_from and self.fine_tune_from:
            raise InputError(
                f"init_from: got {self.init_from} and fine_tune_from {self.fine_tune_from}, "
                "allowed is one of them"
            )
        if not self.graph:
            return
        if self.torch_device.type != "cuda":
            raise InputError("graph: got True on the CPU, allowed is with a CUDA device")
        if self.dtype == "fp16":
            raise InputError(
                "graph: got True with dtype fp16, whose gradient scaler waits for the GPU; allowed "
                "are fp32 and bf16"
            )
        if self.accumulate > 1 or self.micro_batch is not None:
            raise InputError("graph: got True with a batch in pieces, allowed is a whole batch")
