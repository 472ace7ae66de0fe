"""``python -m vggfast.evaluate`` with narrow networks, for tests that start processes.

It fails if threads of a process group are left: they can abort a process that ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.train.helpers import narrow_nets
from vggfast.evaluate.cli import main

if __name__ == "__main__":
    narrow_nets(pytest.MonkeyPatch())
    code = main()
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    left = [name for name in threads if "gloo" in name]
    sys.exit(f"left at the end: {left}" if left and code == 0 else code)
