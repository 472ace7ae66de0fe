"""Images, and boxes in them, rescaled to every scale: decoded once each, in worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from vggfast.data.base import BadImageError
from vggfast.errors import InputError
from vggfast.evaluation.reading import rescale
from vggfast.transfer.boxes import cut
from vggfast.transfer.pictures import Box, Pictures

REGIONS = ("image", "box", "both")


class Task(NamedTuple):
    """What is wanted of picture ``picture``: each of ``views``, None for the whole image."""

    picture: int
    views: tuple[Box | None, ...]


class View(NamedTuple):
    """View ``number`` of task ``task`` at ``scale``: (H, W, 3), uint8, RGB."""

    task: int
    number: int
    scale: int
    pixels: np.ndarray


def stream(
    pictures: Pictures, tasks: Sequence[Task], scales: Sequence[int], *, workers: int, skip: bool
) -> Iterator[tuple[list[View], str | None]]:
    """The views of each task, in order, each at every scale.

    With ``skip`` an image that cannot be read has no views, and the line that says why.

    Raises:
        InputError: an image cannot be read, without ``skip``, or a box does not fit its image.
    """
    loader: DataLoader[Any] = DataLoader(
        cast("Dataset[Any]", _Views(pictures, tasks, scales)),
        batch_size=None,
        sampler=range(len(tasks)),
        num_workers=workers,
        collate_fn=_as_it_is,  # arrays, not tensors: those would hold a file descriptor each
        generator=torch.Generator(),  # keeps the loader's hands off the global one
    )
    for found in loader:
        if isinstance(found, BadImageError) and skip:
            yield [], str(found)
        elif isinstance(found, InputError):
            raise found
        else:
            yield found, None


class _Views:
    """What runs in the workers: a failure is handed over as a value, without a traceback."""

    def __init__(self, pictures: Pictures, tasks: Sequence[Task], scales: Sequence[int]) -> None:
        self.pictures, self.tasks, self.scales = pictures, tasks, scales

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> list[View] | InputError:
        task = self.tasks[index]
        try:
            image = self.pictures.decode(task.picture)
            name = self.pictures.name(task.picture)
            parts = [image if box is None else cut(image, box, name) for box in task.views]
        except InputError as error:
            return error
        return [
            View(index, number, scale, rescale(part, scale))
            for number, part in enumerate(parts)
            for scale in self.scales
        ]


def _as_it_is(found: Any) -> Any:
    return found
