"""The page of a run or a sweep, as text; how it behaves in a browser is tested in ``test_report_in_browser``."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from deploy.__main__ import main
from deploy.report import report
from deploy.runs import changed_settings, grouped, read_run, read_table
from tests.deploy.run_stand_ins import HOSTILE, write_run, write_sweep


class Tags(HTMLParser):
    """All elements of a page and the addresses they name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_page_holds_everything_itself_and_no_name_is_markup(tmp_path: Path) -> None:
    text = report(write_run(tmp_path / "run"))
    tags = Tags(text).found
    assert [name for name, _ in tags].count("script") == 1
    addresses = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")]
    assert len(addresses) == 2
    assert all(address.startswith("data:image/svg+xml;base64,") for address in addresses)
    assert not any(key.startswith("on") for _, attributes in tags for key in attributes)
    assert HOSTILE not in text
    assert html.escape(HOSTILE) in text


def test_a_page_tells_metrics_fronts_and_the_settings_that_are_not_the_defaults(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run")
    text = report(directory)
    assert "random (a control)" in text
    changed = {key: (value, usual) for key, value, usual in changed_settings(read_run(directory))}
    assert changed == {"seed": (7, 0), "zoo.name": (HOSTILE, "embedded")}


def test_fronts_are_what_nothing_cheaper_beats(tmp_path: Path) -> None:
    text = report(write_run(tmp_path / "run"))
    body = re.search(r"<h2>Candidates</h2>.*?<tbody>(.*?)</tbody>", text, re.DOTALL)[1]
    fronts = [re.findall(r"<td[^>]*>([^<]*)</td>", row)[-1] for row in body.splitlines()]
    # By MACs: 90 -> 0.8, 5000 -> 0.9. By parameters: 80 -> 0.15, 900 -> 0.9. The last has no score.
    assert fronts == ["MACs, parameters", "MACs", "parameters", "", ""]
    assert body.splitlines()[0].startswith('<tr class="picked">')


def test_a_sweep_has_mean_and_deviation_over_seeds(tmp_path: Path) -> None:
    directory = write_sweep(tmp_path / "sweep")
    full, freeze = grouped(read_table(directory / "sweep.csv"))
    assert (full.overrides, len(full.rows), freeze.overrides) == ("tuning=full", 3, "tuning=freeze")
    mean, deviation, count = full.spread("test_accuracy")
    assert (mean, deviation, count) == (pytest.approx(0.85), pytest.approx(0.0707, abs=1e-4), 2)
    text = report(directory)
    assert "0.85 ± 0.071" in text
    assert "2 of 3" in text
    assert "6 jobs, 1 of them not completed" in text
    assert HOSTILE not in text


def test_the_command_writes_the_page_and_refuses_what_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = write_run(tmp_path / "run")
    assert main(["report", str(directory)]) == 0
    assert (directory / "report.html").read_text() == report(directory)
    assert main(["report", str(directory), "--output", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").exists()
    capsys.readouterr()
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "failed", status="failed", metrics=None)
    for path, told in (
        ("none", "is no directory"),
        ("empty", "is no run"),
        ("failed", "has no result (status failed)"),
    ):
        assert main(["report", str(tmp_path / path)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


def test_a_damaged_table_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_run(tmp_path / "run")
    (directory / "candidates.csv").write_bytes(b"\xff\xfe\x00")
    assert main(["report", str(directory)]) == 2
    assert "candidates.csv: damaged" in capsys.readouterr().err
