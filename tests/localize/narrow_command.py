"""``python -m vggfast.localize`` with narrow networks, for tests that start processes."""

from __future__ import annotations

import sys

import pytest

from tests.train.helpers import narrow_nets
from vggfast.localize.cli import main

if __name__ == "__main__":
    narrow_nets(pytest.MonkeyPatch())
    sys.exit(main())
