"""The table of the rules: of rows and picks that are there, without a search."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import selection
from benchmarks.selection import RULES, Row, Rows, complete, table
from zoo.errors import UserError


def row(epochs: int, test: float, composition: str = "a[0:2]") -> Row:
    return Row("digits", 0, "full", -epochs, composition, "truncated", 9, 0.5, test, 0.2, 0.1, 0.5, 0.6, 0.7, 0.8)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of 2 and of 4 epochs; the picks of another budget have no row."""
    monkeypatch.setattr(selection, "RESULTS", tmp_path)
    rows = [row(2, 0.25), row(4, 0.75)]
    (tmp_path / "selection.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in rows))
    picks = {f"digits 0 full 120000 {epochs}": dict.fromkeys(RULES, "a[0:2]") for epochs in (2, 4)}
    picks["digits 0 full 200000 4"] = {**dict.fromkeys(RULES, "a[0:2]"), "nine": "b[0:2]"}
    (tmp_path / "selection_picks.json").write_text(json.dumps(picks))
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["selection", *words])
    selection.main()


def test_a_table_is_of_some_epochs_and_of_cells_that_have_all_rows(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for epochs, mean in ((2, "25.0"), (4, "75.0")):
        command(monkeypatch, "--table", "--epochs", str(epochs))
        text = (results / "selection.md").read_text()
        assert text.startswith(f"Test accuracy in % after {epochs} epochs, ")
        assert f"| digits, full, 120,000 | 1 | {mean} (+0.0, 1/1)" in text
        assert f"| digits, full, truncated | 1 | {mean} |" in text
        assert "200,000" not in text


def test_picks_without_their_rows_are_measured_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(Exception):
        pass

    def workers(count: int) -> None:
        raise Asked(count)

    monkeypatch.setattr(selection, "workers", workers)
    with pytest.raises(Asked):
        command(monkeypatch, "--splits", "1", "--data", "digits", "--modes", "full", "--cache", str(results))


def test_epochs_of_which_there_is_no_cell_leave_the_table_as_it_is(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="--epochs 9: no cell has all of its rows; there are those of --epochs 2 or 4"):
        command(monkeypatch, "--table", "--epochs", "9")
    assert not (results / "selection.md").exists()


def test_a_row_that_was_cut_off_is_measured_again(results: Path) -> None:
    path = results / "selection.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    rows = Rows(path)
    assert [each.epochs for each in rows.found.values()] == [-2]
    picks = json.loads((results / "selection_picks.json").read_text())
    assert complete(rows, picks, 4) == {}
    assert "| 75.0 " not in table(rows, picks, 4)
    rows.drop_cut_line()
    rows.add(row(4, 0.75))
    assert [each.epochs for each in Rows(path).found.values()] == [-2, -4]


@pytest.mark.parametrize("line", ["{", "[]", '{"data": "digits"}', "\xff"])
def test_a_damaged_row_is_one_line(results: Path, line: str) -> None:
    path = results / "selection.jsonl"
    path.write_bytes(line.encode("latin-1") + b"\n" + path.read_bytes())
    with pytest.raises(UserError, match=r"selection\.jsonl, line 1") as told:
        Rows(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["[]", '{"digits 0": {"rival": "a"}}', '{"digits 0 full 9 4": {}}', "{"])
def test_damaged_picks_are_one_line(results: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (results / "selection_picks.json").write_text(text)
    with pytest.raises(UserError, match=r"selection_picks\.json"):
        command(monkeypatch, "--table")


@pytest.mark.parametrize("words", [["--data"], ["--modes"]])
def test_an_option_without_a_value_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        command(monkeypatch, "--table", *words)


def test_a_cache_without_a_name_is_refused(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--cache is empty"):
        command(monkeypatch, "--table", "--cache", "")
