"""A run's folder belongs to one run at a time."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path
from typing import IO

from vggfast.errors import InputError


def claim(path: Path, doing: str = "training") -> IO[bytes] | None:
    """Hold an existing file until it is closed, or this process ends in whatever way.

    The lock is of this process alone: workers that outlive a killed run for a moment do not have
    it. Where the file system has no locks, None: nothing is held.

    Raises:
        InputError: another process holds it.
        OSError: the file cannot be opened for writing.
    """
    file = path.open("r+b")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise InputError(
                f"out: another process is {doing} in {path.parent}; allowed is another out, or "
                "resume when it has ended"
            ) from None
        return None
    return file
