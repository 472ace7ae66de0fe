"""``python -m vggfast.evaluate``."""

from __future__ import annotations

import sys

from vggfast.evaluate.cli import main

if __name__ == "__main__":
    sys.exit(main())
