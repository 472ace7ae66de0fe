"""What several of the transfer tests use: pictures, and data sets of the benchmarks' layouts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

CLASSES = ("ant", "bee", "cat")


def picture(path: Path, size: tuple[int, int] = (40, 36), seed: int = 0, hue: int = -1) -> Path:
    """A picture of coarse noise, (width, height); ``hue``: a channel that is brighter."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = rng.integers(0, 128, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    if hue >= 0:
        coarse[..., hue] += 100
    pixels = coarse.repeat(4, 0).repeat(4, 1)[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(pixels).save(path)
    return path


def annotation(path: Path, *objects: tuple[str, tuple[float, float, float, float], int]) -> Path:
    """An annotation as Pascal VOC has it: (class, (xmin, ymin, xmax, ymax), difficult)."""
    things = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}"
        f"</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, difficult in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><size><width>40</width></size>{things}</annotation>")
    return path


def lines(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows))


def voc(root: Path, year: str = "VOC2007", each: int = 8, marks: bool = True) -> Path:
    """VOCdevkit/YEAR: train, val and test of ``each`` JPEGs, three classes by the brighter channel.

    Image i is of class i % 3, and every fourth also of the next one, that object being difficult.
    """
    home = root / "VOCdevkit" / year
    number = 0
    columns: dict[str, list[str]] = {}
    for part in ("train", "val", "test"):
        ids = [f"{number + i:06}" for i in range(each)]
        for i, name in enumerate(ids):
            mine = i % 3
            picture(home / f"JPEGImages/{name}.jpg", seed=number + i, hue=mine)
            objects = [(CLASSES[mine], (1, 1, 40, 36), 0)]
            if i % 4 == 3:
                objects.append((CLASSES[(mine + 1) % 3], (1, 1, 20, 20), 1))
            annotation(home / f"Annotations/{name}.xml", *objects)  # type: ignore[arg-type]
            for k, c in enumerate(CLASSES):
                mark = 1 if k == mine else 0 if i % 4 == 3 and k == (mine + 1) % 3 else -1
                columns.setdefault(f"{c}_{part}", []).append(f"{name} {mark:2d}")
        lines(home / f"ImageSets/Main/{part}.txt", *ids)
        number += each
    for name, rows in columns.items():
        if marks:
            lines(home / f"ImageSets/Main/{name}.txt", *rows)
        else:  # as a devkit whose marks cover train and val together
            lines(home / f"ImageSets/Main/{name}.txt")
    return root


def actions(root: Path) -> Path:
    """VOC2012's action task: images with two objects, the second a person, in three parts."""
    home = root / "VOCdevkit/VOC2012"
    for p, part in enumerate(("train", "val", "test")):
        people = [f"2010_{10 * p + i:06} 2" for i in range(6)]
        for i, person in enumerate(people):
            name = person.split()[0]
            picture(home / f"JPEGImages/{name}.jpg", (60, 50), seed=10 * p + i, hue=i % 2)
            annotation(
                home / f"Annotations/{name}.xml",
                ("horse", (1, 1, 10, 10), 0),
                ("person", (5, 6, 44.7, 45), 0),
            )
        if part == "test":
            lines(home / f"ImageSets/Action/{part}.txt", *people)
            continue
        lines(home / f"ImageSets/Action/{part}.txt", *(person.split()[0] for person in people))
        lines(home / f"ImageSets/Action/other_{part}.txt", *(f"{person} -1" for person in people))
        for k, name in enumerate(("jumping", "reading")):
            rows = [f"{person} {1 if i % 2 == k else -1:2d}" for i, person in enumerate(people)]
            lines(home / f"ImageSets/Action/{name}_{part}.txt", *rows)
    return root


def caltech(root: Path, each: int = 6) -> Path:
    """101_ObjectCategories with three classes, one of them the background."""
    for k, name in enumerate(("BACKGROUND_Google", "Faces", "yin_yang")):
        for i in range(each + k):
            place = root / "101_ObjectCategories" / name / f"image_{i + 1:04}.jpg"
            picture(place, seed=20 * k + i, hue=k)
    return root
