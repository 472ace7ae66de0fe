"""``python -m vggfast.localize``."""

from __future__ import annotations

import sys

from vggfast.localize.cli import main

if __name__ == "__main__":
    sys.exit(main())
