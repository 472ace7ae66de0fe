"""Encoded bytes to RGB pixels: the one place where images are decoded, with Pillow.

What becomes of images that are not plain RGB of 8 bits:

- grey images: three equal channels; 16 bits are rounded to 8 over their whole range (Pillow's own
  conversion would clip at 255);
- CMYK: without a colour profile, as Pillow converts. A JPEG with Adobe's marker stores the inks
  inverted, one without does not;
- palettes: their colours;
- transparency: over white, as a page shows it. What is stored below it is no part of the image;
- EXIF orientation: applied, so that the image is as a viewer shows it;
- several frames: the first.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from vggfast.data.base import BadImageError, require

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's readers for these only: others run programs (EPS) or are of no use here.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif")
ORIENTATION = 0x0112  # EXIF's tag
WHITE = (255, 255, 255, 255)


class Photograph:
    """An encoded image whose header has been read.

    Args:
        raw: the encoded bytes.
        name: what an error calls it.

    Raises:
        BadImageError: these bytes are no image that can be read.
    """

    def __init__(self, raw: bytes, name: str) -> None:
        self._name = name
        pil = require("PIL.Image", "Pillow")
        try:
            self._image = pil.open(io.BytesIO(raw), formats=FORMATS)
            self._turn = _orientation(self._image)
        except Exception as error:
            raise self._bad(error) from None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as the image is shown."""
        w, h = self._image.size
        return (h, w) if self._turn in (5, 6, 7, 8) else (w, h)

    def rgb(self, at_least: tuple[int, int] | None = None) -> Image:
        """Decode, once, to an RGB image.

        Args:
            at_least: (width, height). A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where
                neither side becomes smaller than this; None decodes it whole.

        Raises:
            BadImageError: it is cut off, damaged, or has pixels of no known range.
        """
        try:
            if at_least is not None:
                turned = self._turn in (5, 6, 7, 8)
                self._image.draft(None, at_least[::-1] if turned else at_least)
            # Read before loading, which forgets it for some formats.
            inverted = self._image.format in ("JPEG", "MPO") and "adobe" not in self._image.info
            self._image.load()
            return _turned(_rgb(self._image, inverted), self._turn)
        except Exception as error:
            raise self._bad(error) from None

    def _bad(self, error: Exception) -> BadImageError:
        """Pillow's readers raise nearly anything on damaged bytes: all of it means a bad image."""
        if isinstance(error, MemoryError):
            raise error
        reason = " ".join(str(error).split()) or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            reason = f"not one of {', '.join(FORMATS)}"  # Pillow names a BytesIO
        return BadImageError(f"data: cannot read image {self._name} ({reason})")


def _orientation(image: Any) -> int:
    if "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # metadata that cannot be read says nothing of the pixels
        return 1


def _turned(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    how = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return image if how is None else image.transpose(how)


def _rgb(image: Image, inverted: bool) -> Image:
    """``image``, loaded, in mode RGB; ``inverted``: its inks, if any, are the wrong way round."""
    from PIL import Image as Pil
    from PIL import ImageChops

    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        shown = image.convert("RGBA")
        return Pil.alpha_composite(Pil.new("RGBA", shown.size, WHITE), shown).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Pil.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "CMYK" and inverted:
        image = ImageChops.invert(image)
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, in any integer type, rounded to 8: 65535 becomes 255."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError(f"its pixels go from {wide.min()} to {wide.max()}, more than 16 bits")
    return ((wide + 128) // 257).astype(np.uint8)
