"""Benchmark a VGG: numerics first, then throughput against torch, on the CPU or the GPU at hand.

    python bench/run.py --net E

``--help`` lists the options; ``bench/harness/`` holds the parts, ``session.py`` is where they meet.
Exit codes: 0 measured, 1 the numerics failed (nothing is timed), 2 bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))  # `harness`, which is never installed
if str(HERE.parent) not in sys.path:
    sys.path.append(str(HERE.parent))  # `vggfast` of this checkout, where none is installed

from harness.cli import main  # noqa: E402  - after the path is set

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
