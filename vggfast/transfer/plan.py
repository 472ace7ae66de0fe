"""Which views of which images a shard needs, and which of them make each record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vggfast.transfer.pictures import Box
from vggfast.transfer.records import Records
from vggfast.transfer.views import Task


@dataclass(frozen=True)
class Plan:
    """A shard to be made.

    Attributes:
        number: of the shard.
        rows: (n,), the records it holds.
        tasks: the images it needs, each once, with their views.
        first: the number, within the shard, of each task's first view.
        task: (n,), each row's task.
        views: (regions, n), within the shard, the view of each region of each row.
    """

    number: int
    rows: np.ndarray
    tasks: list[Task]
    first: list[int]
    task: np.ndarray
    views: np.ndarray


def plan(number: int, size: int, records: Records, regions: Sequence[str]) -> Plan:
    """Shard ``number`` of ``size`` records: of each record the image, the box, or both."""
    rows = np.arange(number * size, min((number + 1) * size, len(records)))
    places: dict[int, int] = {}  # task by image
    views: list[list[Box | None]] = []
    task, chosen = [], []
    for row in rows.tolist():
        image = int(records.image[row])
        at = places.setdefault(image, len(places))
        if at == len(views):
            views.append([])
        task.append(at)
        mine = []
        for region in regions:
            box = None if region == "image" or records.boxes is None else _box(records.boxes[row])
            if box not in views[at]:
                views[at].append(box)
            mine.append(views[at].index(box))
        chosen.append(mine)
    first = np.concatenate([[0], np.cumsum([len(v) for v in views])]).astype(np.int64)
    return Plan(
        number,
        rows,
        [Task(image, tuple(v)) for image, v in zip(places, views, strict=True)],
        first[:-1].tolist(),
        np.array(task, np.int64),
        np.array(chosen, np.int64).T + first[task],
    )


def _box(corners: np.ndarray) -> Box:
    left, top, right, bottom = corners.tolist()
    return left, top, right, bottom
