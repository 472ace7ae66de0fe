"""``python -m vggfast.report``."""

from __future__ import annotations

import sys

from vggfast.report.cli import main

if __name__ == "__main__":
    sys.exit(main())
