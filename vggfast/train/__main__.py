"""``python -m vggfast.train``."""

from __future__ import annotations

import sys

from vggfast.train.cli import main

if __name__ == "__main__":
    sys.exit(main())
