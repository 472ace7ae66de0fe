"""What kernels make of weights, packed in an order of their own and kept while they stay the same.

Training changes the weights every step, so keeping theirs would only cost memory: what is packed is
kept from the second call with the same values on. Whether values are the same is told without
reading them, for that would wait for the GPU:

- the tensor's version counter, its address, and its storage (which may be gone);
- no optimizer has made a step since: torch's fused ones do not count the version up.

Neither sees a write through ``.data`` or by a foreign kernel, nor the replay of a CUDA graph:
whoever does that calls :func:`changed` (``vggfast.clear_weights()``) afterwards.

``Held`` keeps packed weights for a CUDA graph, which reads them at a fixed address: they are made
anew there. Needs torch alone, so that kernels of other makes than Triton's share it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.optimizer import register_optimizer_step_post_hook

# From weights and memory to fill (None: new memory) to the packed weights.
Pack = Callable[[Tensor, Tensor | None], Tensor]
_Key = tuple[Any, ...]  # storage, place in it, shape, strides, dtype; form, stream


@dataclass
class _Entry:
    storage: StorageWeakRef  # holds the storage's identity, not its memory
    state: tuple[int, int, int]  # version, address, generation
    rows: Tensor | None  # None: seen once


_entries: dict[_Key, _Entry] = {}
_generation = 0  # counts what may have changed weights behind the version counter's back
_lock = threading.Lock()
_using = threading.local()
if hasattr(os, "register_at_fork"):  # a child must not find it locked by a thread it lacks
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def packed(w: Tensor, form: Hashable, pack: Pack) -> Tensor:
    """``pack(w, None)``, made now or kept from an earlier call; ``form`` names the order.

    Any strides of w. What is returned may be kept for later calls: it is read, never written.
    """
    held: Held | None = getattr(_using, "held", None)
    rows = None if held is None else held.packed(w, form, pack)
    if rows is not None:
        return rows
    # A graph may outlive what is kept here, and its weights change between replays: it packs.
    if w.is_inference() or (w.is_cuda and torch.cuda.is_current_stream_capturing()):
        return pack(w, None)
    storage = w.untyped_storage()
    key = (*_place(w, storage), form, _stream(w))
    with _lock:
        state = (w._version, w.data_ptr(), _generation)
        entry = _entries.get(key)
        if entry is None or entry.state != state:
            _sweep()
            entry = _entries[key] = _Entry(StorageWeakRef(storage), state, None)
            keep = False
        elif entry.rows is not None:
            return entry.rows
        else:
            keep = True
    rows = pack(w, None)
    if keep:
        with _lock:
            entry.rows = rows
    return rows


def changed() -> None:
    """Weights may have changed unseen: drop what is kept, make anew what graphs hold."""
    global _generation
    with _lock:
        _generation += 1
        _entries.clear()


def kept_bytes() -> int:
    """Bytes of packed weights that are kept now, those that graphs hold not counted."""
    with _lock:
        _sweep()
        return sum(e.rows.nbytes for e in _entries.values() if e.rows is not None)


class Held:
    """Some weights, packed, at addresses that stay, for a CUDA graph that reads them there.

    Args:
        sources: the weights (others with them): all else is packed at each call, in the graph.

    Within :meth:`use`, calls in this thread read what is held. The weights must stay where they
    are: whoever captures checks that.
    """

    def __init__(self, sources: Iterable[Tensor]) -> None:
        self._sources = {_place(t, t.untyped_storage()): t for t in sources}
        self._packed: dict[_Key, tuple[Tensor, Pack, Tensor]] = {}
        self._state = self._now()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Let the convolutions of this thread read what is held, and make what is missing."""
        before = getattr(_using, "held", None)
        _using.held = self
        try:
            yield
        finally:
            _using.held = before

    def packed(self, w: Tensor, form: Hashable, pack: Pack) -> Tensor | None:
        """What is held of ``w`` in this form, or None if it is none of the sources."""
        place = _place(w, w.untyped_storage())
        source = self._sources.get(place)
        if source is None:
            return None
        found = self._packed.get((place, form))
        if found is None:
            # Made in the graph they would lie in its memory, which it uses again for other things.
            if w.is_cuda and torch.cuda.is_current_stream_capturing():
                raise RuntimeError("held weights are made before the capture, by a first call")
            found = self._packed[place, form] = (source, pack, pack(source, None))
        return found[2]

    def refresh(self, force: bool = False) -> bool:
        """Make all anew, in place, if the weights may have changed; whether it did."""
        now = self._now()
        if now == self._state and not force:
            return False
        for source, pack, rows in self._packed.values():
            pack(source, rows)
        self._state = now
        return True

    @property
    def nbytes(self) -> int:
        return sum(rows.nbytes for _, _, rows in self._packed.values())

    def _now(self) -> tuple[int, ...]:
        return (_generation, *(t._version for t in self._sources.values()))


def _place(w: Tensor, storage: torch.UntypedStorage) -> _Key:
    return (storage._cdata, w.storage_offset(), tuple(w.shape), w.stride(), w.dtype)


def _stream(w: Tensor) -> int:
    """What is packed on one stream may not be ready on another: each has its own."""
    return torch.cuda.current_stream(w.device).cuda_stream if w.is_cuda else 0


def _sweep() -> None:
    for key in [k for k, e in _entries.items() if e.storage.expired()]:
        del _entries[key]


def _after_step(*_: Any) -> None:
    """Any weights may be others now: a master copy in float32 is not the tensor we see."""
    changed()


register_optimizer_step_post_hook(_after_step)
