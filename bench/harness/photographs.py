"""JPEGs to measure an input pipeline with: cut-outs of scikit-image's photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "hubble_deep_field",
    "retina",
    "immunohistochemistry",
)
QUALITY = 92  # at 500x375 that is some 80 KB, as ILSVRC's files have


def write(root: Path, count: int, size: tuple[int, int]) -> float:
    """Write ``count`` JPEGs of ``size`` = (width, height) into train/ and a few into val/.

    Each is another cut-out of half to all of a photograph, enlarged or reduced to ``size``.

    Returns:
        The mean size of a file in bytes.
    """
    import skimage.data

    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in NAMES]
    total = 0
    for i in range(count):
        image = photographs[i % len(photographs)]
        share = min(image.width / size[0], image.height / size[1]) * rng.uniform(0.5, 1)
        w, h = size[0] * share, size[1] * share
        left, top = rng.uniform(0, image.width - w), rng.uniform(0, image.height - h)
        box = (left, top, left + w, top + h)
        cut = image.convert("RGB").resize(size, Image.Resampling.BICUBIC, box=box)
        for part in ("train", "val") if i < 4 else ("train",):
            folder = root / part / "abcd"[i % 4]
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{i}.jpg"
            cut.save(path, quality=QUALITY)
        total += path.stat().st_size
    return total / count
