"""``python -m vggfast.info``."""

from __future__ import annotations

import sys

from vggfast.info.cli import main

if __name__ == "__main__":
    sys.exit(main())
