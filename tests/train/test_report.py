"""The page that compares runs: right figures, nothing fetched, one line for what is no run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vggfast.engine.history import History, Row
from vggfast.report.cli import main
from vggfast.report.runs import differing, read
from vggfast.train import fit

pytest.importorskip("matplotlib")


def write_run(
    folder: Path,
    accuracies: list[float],
    measures: tuple[str, str] = ("accuracy", "top5"),
    **settings: object,
) -> Path:
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"net": "A", "epochs": 9, **settings}))
    rows = History(
        Row(i, 0.01, 2.0, 0.5, 1.5, accuracy, 0.75, 10.0, 100.0, 0.5)
        for i, accuracy in enumerate(accuracies, 1)
    )
    rows.write_csv(folder / "history.csv", measures)
    return folder


class Cells(HTMLParser):
    """The rows of all tables, and every address that a tag names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k.split(":")[-1] in ("src", "href")]
        self._cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1].append(data)
            self._cell = False


def test_two_runs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "plain", [0.25, 0.5, 0.5], lr=0.01, seed=3)
    two = write_run(tmp_path / "<b>", [0.125, 0.625], lr=0.1, seed=3, ema=0.9)
    out = tmp_path / "page.html"
    assert main([str(one), str(two), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"wrote {out}\n"
    text = out.read_text()
    found = Cells(text)
    assert ["plain", "A", "3/9", "50.00", "2", "75.00", "100.0", "5.0", "0.01"] in found.rows
    assert ["<b>", "A", "2/9", "62.50", "2", "75.00", "100.0", "5.0", "0.01"] in found.rows
    assert ["lr", "0.01", "0.1"] in found.rows
    assert ["ema", "–", "0.9"] in found.rows
    assert ["seed", "3"] in found.rows
    assert "svg" in found.tags
    assert not {"script", "img", "link", "iframe", "b"} & set(found.tags)
    assert all(address.startswith("#") for address in found.addresses)  # within the page
    assert not re.search(r"url\((?!#|&quot;#)|@import", text)
    drawn = out.read_bytes()
    assert main([str(one), str(two), "--out", str(out)]) == 0
    assert out.read_bytes() == drawn


def test_other_measures(tmp_path: Path) -> None:
    """Of a run that localises, alone and beside one that classifies."""
    boxes = write_run(tmp_path / "boxes", [0.25, 0.5], ("localised", "mean_iou"))
    classes = write_run(tmp_path / "classes", [0.75])
    out = tmp_path / "page.html"
    for runs, first, second in (
        ([boxes], "localised", "mean_iou"),
        ([classes, boxes], "top-1 or localised", "top-5 or mean_iou"),
    ):
        assert main([*map(str, runs), "--out", str(out)]) == 0
        rows = Cells(out.read_text()).rows
        assert rows[0][3:6] == [f"best {first}, %", "its epoch", f"{second} there, %"]
        assert any(row[0] == "boxes" and row[3:6] == ["50.00", "2", "75.00"] for row in rows)
    assert "validation accuracy or localised, %" in out.read_text()


def test_names_that_are_alike_become_paths(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name / "run", [0.5]) for name in ("a", "b")]
    assert [run.name for run in read(folders)] == [str(folder) for folder in folders]
    assert differing(read(folders)) == {}


def test_a_real_run(tmp_path: Path, idx_folder: Path, narrow: None) -> None:
    run = tmp_path / "run"
    result = fit(data=f"mnist:{idx_folder}", epochs=2, out=run, progress=False)
    out = tmp_path / "page.html"
    assert main([str(run), "--out", str(out)]) == 0
    rows = Cells(out.read_text()).rows
    assert any(row[:4] == ["run", "A", "2/2", f"{100 * result.best_accuracy:.2f}"] for row in rows)
    assert ["weight_decay", "0.0005"] in rows


def test_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path / "good", [0.5])

    def refused(*argv: object) -> str:
        assert main([*map(str, argv), "--out", str(tmp_path / "page.html")]) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert not (tmp_path / "page.html").exists()
        return line

    assert "none has no settings.json" in refused(good, tmp_path / "none")
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "settings.json").write_text("{}")
    assert "fresh has no history.csv" in refused(tmp_path / "fresh")
    (good / "history.csv").write_text("epoch,lr\n1,x\n")
    assert "cannot read" in refused(good)
    (good / "history.csv").write_text("")
    assert "has no epochs" in refused(good)
    assert "required: RUN" in refused()
    assert main([str(write_run(tmp_path / "a", [0.5])), "--out", str(tmp_path / "x" / "y")]) == 2
    assert "out: cannot write" in capsys.readouterr().err
