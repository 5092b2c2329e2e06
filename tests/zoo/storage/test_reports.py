"""A report is drawn once for the same inputs, and is there whole, wherever it is wanted."""

from __future__ import annotations

from pathlib import Path

from zoo.storage.files import ReportFiles
from zoo.storage.reports import kept_report
from zoo.storage.store import Store


def test_a_report_is_written_once_for_its_inputs_and_copied_for_all_others(tmp_path: Path) -> None:
    drawn: list[str] = []

    def write(directory: Path, text: str) -> ReportFiles:
        drawn.append(text)
        names = ("blueprint.yaml", "table.csv", "figure.png", "empty.png", "figure.svg", "empty.svg")
        for name in names:
            (directory / name).write_text("" if name == "empty.png" else f"{text} of {name}")
        blueprint, table, *figures = (directory / name for name in names[:4])
        return ReportFiles(blueprint, table, tuple(figures))

    store = Store(tmp_path / "cache")
    for place, text in (("a", "one"), ("b", "one"), ("c", "two")):
        report = kept_report(store, {"text": text}, tmp_path / place, lambda d, text=text: write(d, text), "test")
        assert [path.parent for path in report.all] == [tmp_path / place] * 6
        assert (tmp_path / place / "figure.svg").read_text() == f"{text} of figure.svg"
        assert report.table.read_text() == f"{text} of table.csv"
        assert [path.read_bytes() for path in report.figures] == [f"{text} of figure.png".encode(), b""]
    assert drawn == ["one", "two"]
