"""The example of docs/accelerate.md runs and prints what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "accelerate.md"


def test_the_example(capsys: pytest.CaptureFixture[str], one_thread: None) -> None:
    code, printed = re.findall(r"^```\w*\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == printed
