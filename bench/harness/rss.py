"""The most memory this process has held during some calls, as the kernel counts it."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def peak(work: Callable[[], object], calls: int) -> dict[str, int | bool]:
    """Bytes: ``before`` the first of the calls, and the ``peak`` up to the end of the last.

    Linux lets a process forget its peak so far; where it does not (``forgot`` is false), that of
    building the network counts too.
    """
    gc.collect()
    forgot = _forget()
    before = _bytes("VmRSS")
    for _ in range(calls):
        work()
    return {"before": before, "peak": _bytes("VmHWM"), "forgot": forgot}


def _forget() -> bool:
    try:
        CLEAR.write_text(RESET_PEAK)
    except OSError:
        return False
    return True


def _bytes(name: str) -> int:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:  # not Linux: the peak is all there is
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
