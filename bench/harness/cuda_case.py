"""A CUDA C++ kernel to measure: what it is measured against, and how it is checked before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vggfast import reference

Results = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Built:
    """A case with its tensors.

    ``nbytes``: what has to be read and written at the least, each byte once; ``flop``: 0 where only
    bytes count.
    """

    ours: Results
    theirs: dict[str, Results]
    exact: Results
    nbytes: int
    flop: int = 0


@dataclass(frozen=True)
class Case:
    """A kernel to measure on ``images``. ``asked``: (at least this share of copy bandwidth or None,
    at least this many times as fast as the best of theirs or None)."""

    name: str
    images: int
    build: Callable[[int], Built]
    asked: tuple[float | None, float | None] = (None, None)
    absent: str | None = None  # why it cannot run here
    hangs: bool = False  # it waits for copies, for ever if one does not come
    exactly: bool = False  # theirs chooses elements, so ours must be equal


@dataclass(frozen=True)
class Where:
    """What the cases are built for; ``side`` is that of an image, ``width`` divides sizes that do
    not follow from it: both smaller for a test of the cases themselves."""

    device: torch.device
    dtype: torch.dtype
    side: int = 224
    width: int = 1

    def map(self, n: int, c: int, side: int) -> Tensor:
        x = torch.randn(n, side, side, c, device=self.device).to(self.dtype)
        return x.permute(0, 3, 1, 2)

    def normal(self, *size: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(size, device=self.device)).to(self.dtype)


def check(case: Case, images: int) -> list[str]:
    """What is wrong of ours on ``images`` images, a line each: the rule of the other checks.

    An error is at most twice that of the best of theirs, plus a rounding of the result and, where
    ours returns float32, of float32 sums.
    """
    built = case.build(images)
    exact, ours = list(built.exact()), list(built.ours())
    theirs = [list(t()) for t in built.theirs.values()]
    wrong = []
    for i, (mine, right) in enumerate(zip(ours, exact, strict=True)):
        error = reference.errors(mine, right).rel
        best = min(reference.errors(t[i], right).rel for t in theirs)
        bound = 0.0 if case.exactly else 2 * best + torch.finfo(mine.dtype).eps
        if not error <= bound:
            wrong.append(f"{case.name}, result {i}: error {error:.1e}, allowed is {bound:.1e}")
    return wrong
