"""Words of a command line and what Hydra reads in them."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from launch.command_line import readable
from launch.errors import explain
from zoo.errors import UserError

NAMES = [
    *("my pets (v2)", "k=v", "宠物", "O'Brien", "a, b", "[a]", "{a: b}", "a#b", "cost$5", "50%", "x ", " x", "a\\b"),
    *(
        "a\\\\b",
        "end\\",
        'say "hi"',
        '\\"',
        "2024",
        "1e3",
        "true",
        "choice(a,b)",
        "glob(*)",
        "a:b",
        "~",
        "a\tb",
        "!@^&*;|<>",
    ),
]


def parsed(word: str):
    return OverridesParser.create().parse_override(word).value()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("key", ["dataset.root", "+zoo.networks.own.weights.file"])
def test_a_path_is_taken_to_the_letter(key: str, name: str) -> None:
    (word,) = readable([f"{key}=data/{name}"])
    assert parsed(word) == f"data/{name}"
    assert readable([word]) == [word]  # further processes of a job get the words once more


@pytest.mark.parametrize("name", [name for name in NAMES if name != "~"])
def test_a_path_that_is_a_single_name_is_taken_to_the_letter(name: str) -> None:
    (word,) = readable([f"output_dir={name}"])
    assert parsed(word) == name


def test_null_quotes_and_the_home_directory_mean_what_they_do_elsewhere() -> None:
    assert readable(["output_dir=null"]) == ["output_dir=null"]
    assert readable(["dataset.root='a (b)'"]) == ["dataset.root='a (b)'"]
    assert parsed(readable(["cache.root=~/a (b)"])[0]) == str(Path.home() / "a (b)")


def test_in_a_sweep_paths_are_several() -> None:
    assert readable(["-m", "dataset.root=a,b"]) == ["dataset.root=a,b", "-m"]
    assert parsed(readable(["-m", "dataset.root=a (1)"])[0]) == "a (1)"
    assert readable(["-m", "dataset.root='a,b',c"]) == ["dataset.root='a,b',c", "-m"]


def test_options_may_stand_anywhere() -> None:
    assert readable(["seed=1,2", "-m", "zoo=cnn"]) == ["seed=1,2", "zoo=cnn", "-m"]
    assert readable(["--cfg", "job", "seed=1"]) == ["seed=1", "--cfg", "job"]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("task.classes=[it's, 宠物]", ["it's", "宠物"]),
        ("task.classes=[a (b),c=d]", ["a (b)", "c=d"]),
        ("dataset.name=a (b)", "a (b)"),
        ("zoo.input={interpolation: it's, mean: [0.5]}", {"interpolation": "it's", "mean": [0.5]}),
    ],
)
def test_the_spelling_that_is_told_can_be_read(word: str, value: object) -> None:
    with pytest.raises(UserError) as error:
        readable([word])
    (spelling,) = shlex.split(str(error.value).partition(": type ")[2])
    (taken,) = readable([spelling])
    assert parsed(taken) == value


def test_a_key_that_is_given_twice_is_told(caplog: pytest.LogCaptureFixture) -> None:
    assert readable(["seed=1", "seed=2"]) == ["seed=1", "seed=2"]
    assert "seed is given 2 times" in caplog.text
    caplog.clear()
    readable(["seed=1", "seed=1"])
    assert caplog.text == ""


def test_a_file_that_cannot_be_written_is_told_by_its_name() -> None:
    assert explain(OSError(27, "File too large", "out/drawing.png"), []).startswith("out/drawing.png: File too large (")
    assert explain(OSError("no disk"), []).startswith("OSError: no disk (")
