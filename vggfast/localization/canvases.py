"""A small data set with known boxes: items of grey images on canvases of noise.

It is written in ILSVRC's layout (docs/localization.md), so that whatever reads photographs reads
it: training, evaluation and localisation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vggfast.data import Images, open_images
from vggfast.data.base import require
from vggfast.errors import InputError

SIDE = 64  # of a canvas, in pixels
SIZES = (20, 40)  # of an item's longer side
NOISE = 64  # grey values of the noise are below
VISIBLE = 64  # an item's box reaches as far as its pixels are brighter than noise

_XML = """<annotation>
 <filename>{name}</filename>
 <size><width>{side}</width><height>{side}</height><depth>3</depth></size>
 <object>
  <name>{label}</name>
  <bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
 </object>
</annotation>
"""


def write_canvases(
    folder: Path,
    data: str,
    *,
    train: int,
    val: int,
    side: int = SIDE,
    sizes: tuple[int, int] = SIZES,
    seed: int = 0,
) -> tuple[str, ...]:
    """Write PNG images and XML annotations below ``folder``; the names of the classes.

    An item is an image's bright part, cut to its tight box, rescaled so that its longer side has a
    random length in ``sizes``, and laid at a random place on noise: the brighter of both shows. The
    annotation is the tight box of the item as it lies there.

    Args:
        folder: where to; it must not exist yet, or be empty.
        data: "digits", "mnist:DIR" or "fashion-mnist:DIR".
        train, val: images of each part, spread evenly over the set's.
        side: of a canvas.
        sizes: smallest and largest.
        seed: of places, sizes and noise.

    Raises:
        InputError: ``folder`` holds something, or the set cannot be read.
    """
    if not 4 <= sizes[0] <= sizes[1] <= side:
        raise InputError(f"sizes: got {sizes}, allowed are 4 <= smallest <= largest <= {side}")
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"folder: {folder} is not empty; allowed is a new one")
    rng = np.random.default_rng(seed)
    names: tuple[str, ...] = ()
    for part, count in (("train", train), ("val", val)):
        images = open_images(data, part, limit=count)
        names = tuple(name.replace("/", "-") for name in images.classes)
        _write_part(folder, part, images, names, rng, side, sizes)
    return names


def compose(
    item: np.ndarray, rng: np.random.Generator, side: int = SIDE, sizes: tuple[int, int] = SIZES
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """``item`` (H, W), uint8, on a canvas (side, side), uint8, and its tight box there."""
    pil = require("PIL.Image", "Pillow")
    x1, y1, x2, y2 = tight(item)
    cut = pil.fromarray(item[y1:y2, x1:x2])
    factor = rng.integers(sizes[0], sizes[1] + 1) / max(cut.size)
    size = tuple(max(1, round(end * factor)) for end in cut.size)
    scaled = np.asarray(cut.resize(size, pil.Resampling.BILINEAR))
    x1, y1, x2, y2 = tight(scaled)  # rescaling darkens thin edges
    scaled = scaled[y1:y2, x1:x2]
    height, width = scaled.shape
    left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
    canvas = rng.integers(0, NOISE, (side, side), dtype=np.uint8)
    place = canvas[top : top + height, left : left + width]
    np.maximum(place, scaled, out=place)
    return canvas, (left, top, left + width, top + height)


def tight(item: np.ndarray) -> tuple[int, int, int, int]:
    """The box (x1, y1, x2, y2) of the pixels that are bright enough to be seen; all, if none is."""
    bright = item >= VISIBLE
    if not bright.any():
        return 0, 0, item.shape[1], item.shape[0]
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _write_part(
    folder: Path,
    part: str,
    images: Images,
    names: tuple[str, ...],
    rng: np.random.Generator,
    side: int,
    sizes: tuple[int, int],
) -> None:
    pil = require("PIL.Image", "Pillow")
    marks = folder / "Annotations" / "CLS-LOC" / part
    for place in (folder / part, marks):
        for name in names:
            (place / name).mkdir(parents=True, exist_ok=True)
    for i in range(len(images)):
        image, label = images[i]
        canvas, (x1, y1, x2, y2) = compose(np.asarray(image.convert("L")), rng, side, sizes)
        stem = f"{names[label]}/{part}-{i:06d}"
        pil.fromarray(canvas).save(folder / part / f"{stem}.png")
        text = _XML.format(
            name=Path(stem).name, side=side, label=names[label], x1=x1, y1=y1, x2=x2, y2=y2
        )
        (marks / f"{stem}.xml").write_text(text, encoding="utf-8")
