"""``python -m vggfast.predict``."""

from __future__ import annotations

import sys

from vggfast.predict.cli import main

if __name__ == "__main__":
    sys.exit(main())
