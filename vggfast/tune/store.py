"""Writing measured tiles: several tuners at once lose none of each other's entries."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vggfast.errors import InputError
from vggfast.kernels.table_file import Entry, TableError, read, render

NOTE = "Tiles measured on this machine by python -m vggfast.tune; it is safe to delete this file."


def check(path: Path, name: str) -> None:
    """A file that cannot be read or written is refused before minutes are spent.

    Raises:
        InputError: one line, with ``name`` for the argument.
    """
    try:
        read(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path):
            handle, probe = tempfile.mkstemp(dir=path.parent, prefix=".")
            os.close(handle)
            Path(probe).unlink()
    except TableError as error:
        raise InputError(f"{name}: {error}; rename or delete it to start anew") from error
    except OSError as error:
        raise InputError(f"{name}: got {str(path)!r}: {error.strerror or error}") from error


def add(path: Path, entries: Iterable[Entry]) -> int:
    """Merge entries into a file; one with the same key is replaced. Returns how many it has now.

    The file is read again under a lock and replaced in one step, so a reader sees the old or the
    new one whole. Entries whose tile this version does not have stay for the one that has it.

    Raises:
        TableError: it is no longer a table that can be read, and is left as it is, or it cannot be
            written.
    """
    try:
        return _add(path, entries)
    except OSError as error:
        raise TableError(f"{path}: cannot be written: {error.strerror or error}") from error


def _add(path: Path, entries: Iterable[Entry]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        before = read(path)
        merged = dict(before.stale)
        merged.update((e.key, e.as_dict()) for e in (*before.entries, *entries))
        _replace(path, render(list(merged.values()), NOTE))
    return len(merged)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold ``path``'s lock: a file of its own, since the table itself is replaced.

    It stays behind: whoever deleted it could let two in at once.
    """
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".json")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)  # mkstemp's file is its owner's alone
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
