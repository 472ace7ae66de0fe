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
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from vggfast.data.base import BadImageError, require
from vggfast.data.transforms import Window
from vggfast.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's readers for these only: others run programs (EPS) or are of no use here.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "PPM", "GIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".gif")
ORIENTATION = 0x0112  # EXIF's tag
SIDEWAYS = (5, 6, 7, 8)  # orientations whose rows are shown as columns
WHITE = (255, 255, 255, 255)

Box = tuple[float, float, float, float]  # left, top, right, bottom


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
        try:
            self._image = _pillow().open(io.BytesIO(raw), formats=FORMATS)
            self._turn = _orientation(self._image)
        except InputError:
            raise  # Pillow is missing
        except Exception as error:
            raise self._bad(error) from None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as the image is shown."""
        w, h = self._image.size
        return (h, w) if self._turn in SIDEWAYS else (w, h)

    def rgb(self) -> Image:
        """Decode the whole image, once.

        Raises:
            BadImageError: it is cut off, damaged, or has pixels of no known range.
        """
        try:
            return _turned(self._decode(), self._turn)
        except Exception as error:
            raise self._bad(error) from None

    def crop(self, window: Window) -> np.ndarray:
        """Decode what ``window`` needs, once: its pixels, (size, size, 3), uint8, not mirrored.

        A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where neither side then is below that of
        the window's rescaled image, and of that image only the window is computed.

        Raises:
            BadImageError: as :meth:`rgb`.
        """
        try:
            wanted = window.scaled[::-1] if self._turn in SIDEWAYS else window.scaled
            # The part that has content: at a fraction of its size a JPEG is padded to whole pixels.
            drafted = self._image.draft(None, wanted)
            w, h = self._image.size if drafted is None else drafted[1][2:]
            image = self._decode()
            left, top, right, bottom = _stored(window.box, self._turn)
            box = (left * w, top * h, right * w, bottom * h)
            size = (window.size, window.size)
            if image.size == wanted == (w, h):
                corner = round(box[0]), round(box[1])
                image = image.crop((*corner, corner[0] + size[0], corner[1] + size[1]))
            else:
                image = image.resize(size, _pillow().Resampling.BILINEAR, box=box)
            return np.asarray(_turned(image, self._turn))
        except Exception as error:
            raise self._bad(error) from None

    def _decode(self) -> Image:
        # Asked before loading, which forgets it for some formats.
        inverted = self._image.format in ("JPEG", "MPO") and "adobe" not in self._image.info
        self._image.load()
        return _rgb(self._image, inverted)

    def _bad(self, error: Exception) -> BadImageError:
        """Pillow's readers raise nearly anything on damaged bytes: all of it means a bad image."""
        if isinstance(error, MemoryError):
            raise error
        reason = " ".join(str(error).split()) or type(error).__name__
        if type(error).__name__ == "UnidentifiedImageError":
            reason = f"not one of {', '.join(FORMATS)}"  # Pillow names a BytesIO
        return BadImageError(f"data: cannot read image {self._name} ({reason})")


def _pillow() -> ModuleType:
    return require("PIL.Image", "Pillow")


def _orientation(image: Any) -> int:
    if "exif" not in image.info:
        return 1
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # metadata that cannot be read says nothing of the pixels
        return 1


def _turned(image: Image, orientation: int) -> Image:
    """The stored ``image`` as it is shown."""
    turn = _pillow().Transpose
    how = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }.get(orientation)
    return image if how is None else image.transpose(how)


def _stored(box: Box, orientation: int) -> Box:
    """Where in the stored image ``box`` of the shown image lies, both in fractions of the sides."""
    left, top, right, bottom = box
    if orientation in (2, 3, 6, 7):  # what is shown on the right is stored first
        left, right = 1 - right, 1 - left
    if orientation in (3, 4, 7, 8):
        top, bottom = 1 - bottom, 1 - top
    return (top, left, bottom, right) if orientation in SIDEWAYS else (left, top, right, bottom)


def _rgb(image: Image, inverted: bool) -> Image:
    """``image``, loaded, in mode RGB; ``inverted``: its inks, if any, are the wrong way round."""
    pil = _pillow()
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        shown = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", shown.size, WHITE), shown).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of no known range")
    if image.mode == "I" or image.mode.startswith("I;16"):
        return pil.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "CMYK" and inverted:
        image = image.point(lambda ink: 255 - ink)
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, in any integer type, rounded to 8: 65535 becomes 255."""
    wide = grey.astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise ValueError(f"its pixels go from {wide.min()} to {wide.max()}, more than 16 bits")
    return ((wide + 128) // 257).astype(np.uint8)
