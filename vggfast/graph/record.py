"""Warm-up and capture. Nothing here runs a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
WARM_UPS = 3  # kernels are compiled, libraries choose theirs and make their workspaces


def warm_up(run: Callable[[], Any], device: torch.device) -> None:
    """Call ``run`` a few times, on a GPU on a side stream, as captured work will be."""
    if device.type != "cuda":
        for _ in range(WARM_UPS):
            run()
        return
    with torch.cuda.device(device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                run()
        current.wait_stream(side)


def record(run: Callable[[], T], device: torch.device) -> tuple[Any, T]:
    """Capture one call of ``run``: the graph, and what ``run`` returned, in the graph's memory."""
    graph = torch.cuda.CUDAGraph()
    # Threads that load data may allocate meanwhile: only this one's calls count.
    with (
        torch.cuda.device(device),
        torch.cuda.graph(graph, capture_error_mode="thread_local"),
    ):
        result = run()
    return graph, result


@contextmanager
def capturable(device: torch.device) -> Iterator[None]:
    """Make normal tensors; in autocast, cast weights in the graph and not once before it."""
    kind = device.type
    with (
        torch.inference_mode(False),
        torch.autocast(
            kind,
            torch.get_autocast_dtype(kind),
            enabled=torch.is_autocast_enabled(kind),
            cache_enabled=False,
        ),
    ):
        yield


class Turns:
    """Replays share their memory: one on another stream waits for the one before it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last: Any = None

    def next(self) -> None:
        if self._device.type != "cuda":
            return
        stream = torch.cuda.current_stream(self._device)
        if self._last is not None and self._last != stream:
            stream.wait_stream(self._last)
        self._last = stream
