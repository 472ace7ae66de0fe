"""The table: Markdown, CSV, rich."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from vggfast.errors import InputError
from vggfast.evaluation import table
from vggfast.evaluation.fusion import Row
from vggfast.evaluation.rates import wilson

ROWS = [
    Row("D", "[256;512]", (256, 384, 512), "dense", wilson(248, 1000), wilson(75, 1000)),
    Row("D + E", "256", (256,), "both", wilson(0, 3), None),
]


def test_markdown() -> None:
    lines = table.markdown(ROWS).splitlines()
    assert lines[0] == "| net | S | Q | protocol | top-1 error (%) | top-5 error (%) |"
    assert lines[2] == "| D | [256;512] | 256,384,512 | dense | 24.8 (22.2–27.6) | 7.5 (6.0–9.3) |"
    assert lines[3] == "| D + E | 256 | 256 | both | 0.0 (0.0–56.1) | – |"
    assert {line.count("|") for line in lines} == {7}


def test_csv(tmp_path: Path) -> None:
    table.write(tmp_path / "new" / "t.csv", ROWS)
    text = (tmp_path / "new" / "t.csv").read_text()
    first, second = csv.DictReader(io.StringIO(text))
    assert (first["Q"], first["images"], first["top1_errors"]) == ("256,384,512", "1000", "248")
    assert float(first["top5_high"]) == wilson(75, 1000).high
    assert (second["top1_error"], second["top5_error"]) == ("0.0", "")


def test_rich() -> None:
    console = pytest.importorskip("rich.console")
    out = io.StringIO()
    console.Console(file=out, width=120).print(table.rich_table(ROWS))
    assert "[256;512]" in out.getvalue()  # and not taken for markup
    assert "24.8 (22.2–27.6)" in out.getvalue()


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"table: got .*allowed are files \*.md and \*.csv"):
        table.write(tmp_path / "t.txt", ROWS)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="table: cannot write"):
        table.write(tmp_path / "file" / "t.md", ROWS)
