"""A wrong word ends every command without Hydra with one line: what was given, what is allowed, what to type."""

from __future__ import annotations

import ast
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pytest

from zoo.arguments import Parser, positive, run, whole
from zoo.errors import UserError

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = ("zoo", "launch", "cloning", "deploy", "benchmarks", "studies")


def parser() -> Parser:
    found = Parser(prog="python -m nothing")
    found.add_argument("--units", choices=("params", "macs"), nargs="+", default=["params", "macs"])
    commands = found.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut", help="cuts")
    cutting.add_argument("network")
    cutting.add_argument("file", metavar="FILE")
    cutting.add_argument("--splits", type=positive, default=3)
    cutting.add_argument("--limits", type=whole(0, 9), nargs="+")
    cutting.add_argument("--keep", type=float, default=0.5)
    cutting.add_argument("--exact", action="store_true")
    commands.add_parser("list")
    return found


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "command is not given: type one of cut, list"),
        (["cutt"], "command: 'cutt' is unknown; type one of cut, list"),
        (["cut"], "network, FILE is not given: type network FILE"),
        (["cut", "a", "b", "c"], "c is one word too many: python -m nothing cut --help lists what it takes"),
        (
            ["cut", "a", "b", "--split", "0"],
            "--splits: 0 is no whole number from 1 on; type --splits 3, or leave it out",
        ),
        (["cut", "a", "b", "--splits", "two\nlines"], "--splits: two lines is no whole number from 1 on"),
        (["cut", "a", "b", "--splits"], "--splits: expected one argument; type --splits 3, or leave it out"),
        (["cut", "a", "b", "--limits", "10"], "--limits: 10 is no whole number from 0 to 9; type --limits LIMITS"),
        (["cut", "a", "b", "--keep", "x"], "--keep: 'x' is no number; type --keep 0.5, or leave it out"),
        (["cut", "a", "b", "--exact=yes"], "--exact: ignored explicit argument 'yes'; type --exact"),
        (["cut", "a", "b", "--splitz", "2"], "there is no option --splitz: type --splits"),
        (["list", "--splits", "2"], "there is no option --splits: type one of -h, --help"),
        (["--units", "watts"], "--units: 'watts' is unknown; type --units one of params, macs"),
    ],
)
def test_a_wrong_word_is_one_line(words: Sequence[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args(words)
    told = capsys.readouterr().err
    assert ended.value.code == 2
    assert told.startswith(f"error: {line}")
    assert told.count("\n") == 1


def test_right_words_are_read() -> None:
    found = parser().parse_args(["cut", "a", "b", "--limits", "0", "9", "--splits", "12"])
    assert (found.network, found.file, found.limits, found.splits) == ("a", "b", [0, 9], 12)
    assert parser().parse_args(["list"]).command == "list"


def test_a_mistake_that_a_command_finds_later_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise UserError("there is no scenario 'x'")

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert (ended.value.code, capsys.readouterr().err) == (2, "error: there is no scenario 'x'\n")


def test_an_interruption_is_one_line_also_where_lightning_makes_an_exit_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def exits() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    def interrupted() -> None:
        raise KeyboardInterrupt

    def terminated() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    for main, goes_on, status, line in (
        (interrupted, False, 130, "interrupted\n"),
        (exits, True, 130, "interrupted: the same command goes on where it was stopped\n"),
        (terminated, True, 143, "interrupted: the same command goes on where it was stopped\n"),
    ):
        with pytest.raises(SystemExit) as ended:
            run(main, goes_on=goes_on)
        assert (ended.value.code, capsys.readouterr().err) == (status, line)
    assert signal.getsignal(signal.SIGTERM) == before
    with pytest.raises(SystemExit) as ended:
        run(lambda: sys.exit(3))
    assert ended.value.code == 3


def calls(name: str) -> list[Path]:
    """Files that call a function of this name."""
    files = [path for package in PACKAGES for path in sorted((PROJECT / package).rglob("*.py"))]
    return [
        path.relative_to(PROJECT)
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == name
    ]


def test_no_command_has_another_parser() -> None:
    assert calls("ArgumentParser") == []
    assert len(calls("Parser")) > 20


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("zoo.__main__", ["inspekt"], "type one of inspect, support, fetch, convert"),
        ("cloning.__main__", ["pack", "run", "file", "--zzoo", "x"], "there is no option --zzoo: type --zoo"),
        ("deploy.__main__", ["predict"], "RUN, PATH is not given"),
        ("launch.__main__", ["sweep"], "DIR is not given: type DIR"),
        ("cloning.__main__", ["list"], "PATH is not given: type PATH (packed clones, or folders of them)"),
        ("benchmarks.fronts.__main__", ["embedded", "digits", "--splits", "0"], "--splits: 0 is no whole number"),
        ("benchmarks.partition", ["--trials", "many"], "--trials: many is no whole number from 1 on"),
        ("studies.locality", ["--seed", "-1"], "--seed: -1 is no whole number from 0 to 4,294,967,295"),
        ("studies.scales", ["--limits"], "--limits: expected at least one argument; type --limits LIMITS"),
    ],
)
def test_commands_refuse_in_one_line(
    module: str, words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [module, *words])
    loaded = import_module(module)
    with pytest.raises(SystemExit) as ended:
        (loaded.STUDY if hasattr(loaded, "STUDY") else loaded).main()
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.startswith("error: ")
    assert told in line
    assert line.count("\n") == 1
