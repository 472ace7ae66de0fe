"""Weights as the CPU kernels want them, kept while those they were made from stay the same.

Training changes the weights every step, so keeping theirs would only cost memory: they are kept
from the second call with the same values on. An entry is dropped when the tensor's version counter
says that it changed, when a sample of its values differs (code that writes through ``.data`` does
not count up), or when its storage is gone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from vggfast.backends import native
from vggfast.backends.cpu_memory import empty


@dataclass
class _Entry:
    storage: StorageWeakRef  # holds the storage's identity, not its memory
    version: int
    fingerprint: int
    made: Tensor | None  # None: seen once


_Form = tuple[str, int, bool, bool] | tuple[str]  # what is made of the weights
_Key = tuple[int, int, tuple[int, ...], tuple[int, ...], _Form]
_entries: dict[_Key, _Entry] = {}
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child must not find it locked by a thread it lacks
    os.register_at_fork(
        before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
    )


def transformed(w: Tensor, m: int, split: bool, rotated: bool, threads: int) -> Tensor | None:
    """``w`` (C_out, C_in, 3, 3) for F(m x m, 3 x 3), ``rotated`` for dgrad; or None: not kept."""

    def make() -> Tensor:
        lib = native.module()
        c_out, c_in = w.shape[:2]
        size = lib.winograd_floats(*((c_in, c_out) if rotated else (c_out, c_in)), m, split)
        made = empty((size,))
        lib.winograd_weights(w.data_ptr(), made.data_ptr(), c_out, c_in, rotated, m, split, threads)
        return made

    return _kept(w, ("winograd", m, split, rotated), make)


def dense(w: Tensor) -> Tensor:
    """``w`` row by row: itself, or a copy, kept where it is in channels_last memory.

    Networks are moved to that whole, weights too. A copy a call would have other memory each time,
    from which nothing else could be kept.
    """
    if w.is_contiguous():
        return w
    kept = None
    if w.is_contiguous(memory_format=torch.channels_last):
        kept = _kept(w, ("dense",), w.contiguous)
    return w.contiguous() if kept is None else kept


def packed_bf16(w: Tensor, threads: int) -> Tensor | None:
    """``w`` (C_out, C_in, 3, 3) in bfloat16 as the panels of its kernels; or None: not kept."""

    def make() -> Tensor:
        lib = native.module()
        c_out, c_in = w.shape[:2]
        made = empty((lib.bf16_packed_size(c_out, c_in),), torch.bfloat16)
        lib.bf16_pack(w.data_ptr(), made.data_ptr(), c_out, c_in, threads)
        return made

    return _kept(w, ("bf16",), make)


def _kept(w: Tensor, form: _Form, make: Callable[[], Tensor]) -> Tensor | None:
    if w.is_inference():  # no version counter
        return None
    storage = w.untyped_storage()
    key = (storage._cdata, int(w.storage_offset()), tuple(w.shape), w.stride(), form)
    words = w.numel() * w.element_size() // 4
    version, fingerprint = w._version, native.module().fingerprint(w.data_ptr(), words)
    with _lock:
        entry = _entries.get(key)
        if entry is not None and (entry.version, entry.fingerprint) == (version, fingerprint):
            if entry.made is not None:
                return entry.made
        else:
            _sweep()
            _entries[key] = _Entry(StorageWeakRef(storage), version, fingerprint, None)
            return None
    made = make()
    with _lock:
        entry.made = made
    return made


def _sweep() -> None:
    for key in [k for k, e in _entries.items() if e.storage.expired()]:
        del _entries[key]


def kept_bytes() -> int:
    """Bytes of transformed weights held now."""
    with _lock:
        _sweep()
        return sum(e.made.nbytes for e in _entries.values() if e.made is not None)


def clear() -> None:
    """Drop all transformed weights."""
    with _lock:
        _entries.clear()
