"""Training crops that keep the object.

Along each axis the crop's place is drawn evenly from those places at which the crop contains the
whole object. An object longer than the crop along that axis cannot be contained: the crop then lies
within it. Where the image's border, or fractions of a pixel, leave no such place, the nearest
possible one is taken.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from torch import Tensor

from vggfast.data.transforms import Window, rescaled
from vggfast.localization.boxes import rescale


@dataclass(frozen=True)
class ObjectCrop:
    """A random crop of ``size`` pixels around an object, of an image rescaled to S.

    S is drawn for each use from ``scale`` = (S_min, S_max); the paper fixes it. Mirrored with
    probability 1/2 if ``flip``.
    """

    size: int
    scale: tuple[int, int]
    flip: bool

    def plan(self, draw: int, size: tuple[int, int], box: Tensor) -> Window:
        """The window that ``draw`` gives in an image of ``size`` = (width, height).

        ``box`` (4,) is the object's, in pixels of the image as it is.
        """
        rng = random.Random(draw)
        scaled = rescaled(size, rng.randint(*self.scale))
        x1, y1, x2, y2 = rescale(box.double(), size, scaled).tolist()
        left = rng.randint(*places(x1, x2, scaled[0], self.size))
        top = rng.randint(*places(y1, y2, scaled[1], self.size))
        return Window(self.size, scaled, left, top, self.flip and rng.random() < 0.5)


def places(low: float, high: float, side: int, crop: int) -> tuple[int, int]:
    """The first and the last place of a crop along an axis of ``side`` pixels that keep an object.

    The object reaches from ``low`` to ``high``, 0 <= low < high <= side; ``crop`` <= side.
    """
    ends = high - crop, low  # between them the crop contains the object, or lies within it
    first, last = math.ceil(min(ends)), math.floor(max(ends))
    room = side - crop
    first, last = (min(max(place, 0), room) for place in (first, last))
    return (first, last) if first <= last else (last, last)
