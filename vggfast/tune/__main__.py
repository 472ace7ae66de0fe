"""``python -m vggfast.tune``."""

from __future__ import annotations

import sys

from vggfast.tune.cli import main

if __name__ == "__main__":
    sys.exit(main())
