"""Boxes and class names on a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vggfast.data.base import require

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")


def draw(
    image: Image, boxes: Sequence[Sequence[float]], texts: Sequence[str], scale: int = 1
) -> Image:
    """A copy of an RGB image with boxes (x1, y1, x2, y2) and a text at each.

    The first is drawn last, on top of the others. With ``scale`` the picture is enlarged first, so
    that texts fit small images.
    """
    require("PIL.Image", "Pillow")
    drawing = require("PIL.ImageDraw", "Pillow")
    shown = image.resize((image.width * scale, image.height * scale)) if scale > 1 else image.copy()
    pen = drawing.Draw(shown)
    line = max(1, min(shown.size) // 150)
    for number in reversed(range(len(boxes))):
        colour = COLOURS[number % len(COLOURS)]
        x1, y1, x2, y2 = (scale * end for end in boxes[number])
        right, bottom = max(x2 - 1, x1), max(y2 - 1, y1)  # the last pixel inside
        pen.rectangle((x1, y1, right, bottom), outline=colour, width=line)
        left, top, end, low = pen.textbbox((0, 0), texts[number])
        width, height = end - left, low - top
        x = min(max(0, x1), max(0, shown.width - width - 2))
        y = y1 - height - 2 if y1 > height + 2 else y1
        pen.rectangle((x, y, x + width + 2, y + height + 2), fill=colour)
        pen.text((x + 1 - left, y + 1 - top), texts[number], fill="white")
    return shown
