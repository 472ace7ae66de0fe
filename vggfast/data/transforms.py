"""The paper's geometry (sections 3.1 and 3.2): which crop of a photograph the network sees.

A crop is cut from an image rescaled so that its shorter side is S. Only the crop's own pixels are
ever computed (:meth:`vggfast.data.decode.Photograph.crop`): the rescaled image exists in the
formulas alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

ALPHA = 0.1  # standard deviation of the colour shift (Krizhevsky et al. 2012, section 4.1)
NO_SHIFT = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Window:
    """A crop of ``size`` x ``size`` at (``left``, ``top``) of an image rescaled to ``scaled``.

    Attributes:
        size: side of the crop in pixels.
        scaled: (width, height) of the whole image after rescaling.
        left, top: the crop's upper left corner, in pixels of the rescaled image.
        flip: whether the crop is to be mirrored left to right.
        alphas: the three normal numbers of the colour shift.
    """

    size: int
    scaled: tuple[int, int]
    left: int
    top: int
    flip: bool = False
    alphas: tuple[float, float, float] = NO_SHIFT

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The crop's left, top, right and bottom as fractions of the image's width and height."""
        width, height = self.scaled
        right, bottom = self.left + self.size, self.top + self.size
        return self.left / width, self.top / height, right / width, bottom / height


class TrainCrop:
    """S drawn from ``scale`` = (S_min, S_max), a random place, mirrored with probability 1/2.

    S is drawn for each use of an image (section 3.1, scale jittering); equal ends fix it.
    """

    def __init__(self, size: int, scale: tuple[int, int], flip: bool) -> None:
        self.size, self.scale, self.flip = size, scale, flip

    def plan(self, draw: int, size: tuple[int, int]) -> Window:
        """The window that ``draw`` gives in an image of ``size`` = (width, height)."""
        rng = random.Random(draw)
        scaled = rescaled(size, rng.randint(*self.scale))
        left, top = (rng.randint(0, side - self.size) for side in scaled)
        flip = self.flip and rng.random() < 0.5
        alphas = (rng.gauss(0, ALPHA), rng.gauss(0, ALPHA), rng.gauss(0, ALPHA))
        return Window(self.size, scaled, left, top, flip, alphas)


class CentreCrop:
    """S is the middle of ``scale``; the crop lies in the image's middle."""

    def __init__(self, size: int, scale: tuple[int, int]) -> None:
        self.size, self.scale = size, scale

    def plan(self, draw: int, size: tuple[int, int]) -> Window:
        """The window in an image of ``size`` = (width, height); ``draw`` plays no part."""
        scaled = rescaled(size, sum(self.scale) // 2)
        left, top = ((side - self.size) // 2 for side in scaled)
        return Window(self.size, scaled, left, top)


def rescaled(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """(width, height) of an image whose shorter side becomes ``shorter``, its proportions kept."""
    factor = shorter / min(size)
    width, height = (max(shorter, round(side * factor)) for side in size)
    return width, height
