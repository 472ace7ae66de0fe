"""``python -m vggfast COMMAND``, as the script ``vggfast``."""

from __future__ import annotations

import sys

from vggfast.command import main

if __name__ == "__main__":
    sys.exit(main())
