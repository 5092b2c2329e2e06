"""Colours, names and files of figures."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from figures.style import network_colours, number, save, written


def named(title: str) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.text(0, 0.5, written(title))
    return figure


def test_a_network_has_the_same_colour_wherever_the_same_names_are_given() -> None:
    names = [f"network {i}" for i in range(30)]
    colours = network_colours(names)
    assert len(set(colours.values())) == 30
    assert network_colours([*names, "another", names[3]]) == {**colours, "another": network_colours([*names, "x"])["x"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet18", "resnet18"),
        ("a$x^$b", r"a\$x^\$b"),
        ("two\nlines\x1b", "two lines"),
        ("", "(no name)"),
        ("a" * 40 + "b" * 40, "a" * 35 + "…" + "b" * 24),
    ],
)
def test_names_are_written_in_one_line_and_are_no_formulae(name: str, text: str) -> None:
    assert written(name) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (999_600, "1M"), (12_345, "12.3k"), (4_089_184_256, "4.09G"), (2.5e15, "2,500T")],
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_a_figure_is_the_same_files_every_time(tmp_path: Path) -> None:
    paths = [save(named("a $b$ c"), tmp_path / name) for name in ("one.png", "two.svg", "three")]
    assert [path.name for path in paths] == ["one.png", "two.png", "three.png"]
    assert len({path.read_bytes() for path in paths}) == 1
    drawings = {path.with_suffix(".svg").read_bytes() for path in paths}
    assert len(drawings) == 1
    assert b"<text" not in drawings.pop()  # outlines, the same with any reader's fonts


def test_characters_that_no_font_has_are_left_to_the_readers_fonts(tmp_path: Path) -> None:
    figure = named("\u13a0\U0001f9ff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = save(figure, tmp_path / "one")
    assert "\U0001f9ff" in path.with_suffix(".svg").read_text()
