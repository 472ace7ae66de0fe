"""The settings of an extraction: names, defaults and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vggfast import backends
from vggfast.data.photos import ON_BAD_IMAGE
from vggfast.engine import checks
from vggfast.engine.settings import DTYPES
from vggfast.errors import InputError
from vggfast.evaluation import scales
from vggfast.evaluation.settings import MIRRORED_IS_ANOTHER
from vggfast.evaluation.work import Work
from vggfast.transfer.collection import parse
from vggfast.transfer.descriptors import COMBINE
from vggfast.transfer.layers import PENULTIMATE
from vggfast.transfer.store import FORMATS
from vggfast.transfer.views import REGIONS


@dataclass(frozen=True, kw_only=True)
class Settings(Work):
    """All settings; :func:`vggfast.features.extract` documents them."""

    weights: tuple[str, ...]
    data: str
    out: str
    part: str = "all"
    layer: str = PENULTIMATE
    scales: str = "auto"
    combine: str = "average"
    normalise: bool = True
    flips: bool | None = None
    boxes: str | None = None
    region: str | None = None
    format: str = "safetensors"
    shard_size: int = 1024
    batch: int | None = None
    dtype: str = "fp32"
    device: str = "auto"
    backend: str | None = None
    exact: bool = False
    threads: int | None = None
    workers: int = 0
    limit: int | None = None
    on_bad_image: str = "fail"

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("weights: got none, allowed are one file or more")
        for path in self.weights:
            if not Path(path).is_file():
                raise InputError(f"weights: no file {path}; allowed is one of vggfast.train")
        for name in ("data", "out", "part", "layer"):
            checks.text(name, getattr(self, name))
        if not self.out:
            raise InputError("out: got '', allowed is a folder")
        checks.one_of("combine", self.combine, COMBINE)
        checks.one_of("format", self.format, FORMATS)
        checks.one_of("dtype", self.dtype, DTYPES)
        checks.one_of("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        if self.region is not None:
            checks.one_of("region", self.region, REGIONS)
        checks.boolean("normalise", self.normalise)
        checks.boolean("flips", self.flips, optional=True)
        for name in ("batch", "threads", "limit"):
            checks.integer(name, getattr(self, name), 1, optional=True)
        checks.integer("shard_size", self.shard_size, 1)
        checks.integer("workers", self.workers, 0)
        if self.scales not in scales.NAMES:
            scales.listed(self.scales)
        if self.backend not in (None, "auto"):
            backends.get(str(self.backend))
        checks.device(self.device)
        parse(self.data)

    @property
    def mirrors(self) -> bool:
        """Whether mirror images are used; by default yes, but not of digits."""
        if self.flips is not None:
            return self.flips
        return parse(self.data)[0] not in MIRRORED_IS_ANOTHER
