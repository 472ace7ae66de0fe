"""``python -m vggfast.features``."""

from __future__ import annotations

import sys

from vggfast.features.cli import main

if __name__ == "__main__":
    sys.exit(main())
