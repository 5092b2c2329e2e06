"""Where nothing can be written is told before anything is computed, and looking leaves nothing behind."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from zoo.errors import UserError
from zoo.storage.places import require_directory, require_file, require_files


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Holds a file, a directory that is there and one named as a file of a study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    (tmp_path / "there").mkdir()
    (tmp_path / "taken.png").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("check", "place", "told"),
    [
        (require_directory, "file", "--x=file: {here}/file is a file, not a directory; type --x= another path"),
        (require_directory, "/proc/no/where", "--x=/proc/no/where cannot be made or written"),
        (require_directory, " ", "--x is empty"),
        (require_file, "there", "--x=there is a directory, not a file to write to: type --x= another path"),
        (require_file, "file/below", "--x=file/below: {here}/file is a file"),
        (require_file, "/proc/no/where", "--x=/proc/no/where cannot be made or written"),
        (require_file, "n" * 300, "File name too long"),
        (require_files, "there", "--x=there is a directory"),
        (require_files, "taken", "--x=taken.png is a directory"),
        (require_files, "front_0.5.svg", "type --x=front_0.5"),
        (require_files, "/proc/no/where", "--x=/proc/no/where cannot be made or written"),
    ],
)
def test_what_cannot_be_written_is_told(check, place: str, told: str, folder: Path) -> None:
    with pytest.raises(UserError) as refused:
        check("--x", place)
    assert told.format(here=folder) in str(refused.value)


def test_what_can_be_written_passes_and_nothing_is_made(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    require_directory("--x", "new/deep")
    require_directory("--x", "/proc", is_read=True)
    require_file("", "file")
    require_files("--x", "new/study")
    require_files("--x", "new/front_0.5")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("module", "words", "opens"),
    [
        ("benchmarks.fronts.__main__", ["embedded", "digits"], "benchmarks.fronts.task.open_task"),
        ("studies.scales", [], "studies.study.open_task"),
        ("studies.locality", [], "studies.locality.measure"),
    ],
)
@pytest.mark.parametrize(("option", "place"), [("--output", "there"), ("--output", "file/x"), ("--cache", "file")])
def test_a_study_computes_nothing_where_it_cannot_write(
    module: str,
    words: list[str],
    opens: str,
    option: str,
    place: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = import_module(module)
    monkeypatch.setattr(opens, lambda *_: pytest.fail("begun"))
    monkeypatch.setattr(sys, "argv", [module, *words, option, place])
    with pytest.raises(SystemExit) as ended:
        (command.STUDY if hasattr(command, "STUDY") else command).main()
    line = capsys.readouterr().err
    assert ended.value.code == 2
    told = f"{option}={place}" if (module, option) != ("studies.locality", "--cache") else "there is no option --cache"
    assert line.startswith(f"error: {told}")
    assert line.count("\n") == 1
