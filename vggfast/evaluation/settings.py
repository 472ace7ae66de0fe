"""The settings of an evaluation: names, defaults and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vggfast import backends
from vggfast.data import parse_spec
from vggfast.data.folder import PARTS
from vggfast.data.photos import ON_BAD_IMAGE
from vggfast.engine import checks
from vggfast.engine.settings import DTYPES
from vggfast.errors import InputError
from vggfast.evaluation import scales, table
from vggfast.evaluation.posteriors import PROTOCOLS
from vggfast.evaluation.work import Work

BOTH = ("dense", "multicrop")
MIRRORED_IS_ANOTHER = ("digits", "mnist")  # kinds of data whose mirror images are no members


@dataclass(frozen=True, kw_only=True)
class Settings(Work):
    """All settings; :func:`vggfast.evaluate.evaluate` documents them."""

    weights: tuple[str, ...]
    data: str
    part: str = "val"
    protocol: str = "dense"
    scales: str = "auto"
    flips: bool | None = None
    batch: int | None = None
    dtype: str = "fp32"
    device: str = "auto"
    backend: str | None = None
    exact: bool = False
    threads: int | None = None
    workers: int = 0
    limit: int | None = None
    on_bad_image: str = "fail"
    scores: str | None = None

    def __post_init__(self) -> None:
        if not self.weights:
            raise InputError("weights: got none, allowed are one file or more")
        for path in self.weights:
            if not Path(path).is_file():
                raise InputError(f"weights: no file {path}; allowed is one of vggfast.train")
        checks.one_of("part", self.part, PARTS)
        checks.one_of("protocol", self.protocol, (*PROTOCOLS, "both"))
        checks.one_of("dtype", self.dtype, DTYPES)
        checks.one_of("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        for name in ("batch", "threads", "limit"):
            checks.integer(name, getattr(self, name), 1, optional=True)
        checks.integer("workers", self.workers, 0)
        if self.scales not in scales.NAMES:
            scales.listed(self.scales)
        if self.backend not in (None, "auto"):
            backends.get(str(self.backend))
        checks.device(self.device)
        parse_spec(self.data)

    @property
    def protocols(self) -> tuple[str, ...]:
        return BOTH if self.protocol == "both" else (self.protocol,)

    @property
    def mirrors(self) -> bool:
        """Whether mirror images are used; by default yes, but not of digits."""
        if self.flips is not None:
            return self.flips
        return parse_spec(self.data)[0] not in MIRRORED_IS_ANOTHER


def check_outputs(json: str | None, written_table: str | None) -> None:
    """Raise InputError if a result could not be written, before hours of work."""
    if written_table is not None:
        table.check_suffix(Path(written_table))
    for name, path in (("json", json), ("table", written_table)):
        if path is not None and Path(path).is_dir():
            raise InputError(f"{name}: got the folder {path}, allowed is a file")
