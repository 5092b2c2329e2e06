from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from zoo.errors import UserError
from zoo.storage.records import from_plain, neighbours, to_plain


@dataclass(frozen=True)
class Part:
    name: str
    span: tuple[int, int] = (0, 1)


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    mode: Literal["fast", 3] = "fast"
    share: float = 0.5
    flag: bool = False
    table: Mapping[str, int] = field(default_factory=dict)
    extra: Part | None = None
    either: str | int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


WHOLE = Whole(
    parts=(Part("a"), Part("b", (2, 5))), mode=3, share=2.0, flag=True, table={"x": 1}, extra=Part("c"), either="text",
    settings={"deep": {"list": [1, None]}},
)  # fmt: skip


def test_records_survive_the_way_to_plain_data_and_back():
    plain = to_plain(WHOLE)
    assert plain["parts"] == [{"name": "a", "span": [0, 1]}, {"name": "b", "span": [2, 5]}]
    assert from_plain(Whole, plain, "here") == WHOLE


def test_none_is_left_out_and_defaults_fill_in():
    assert "extra" not in to_plain(Whole(parts=()))
    assert from_plain(Whole, {"parts": [], "share": 1}, "here") == Whole(parts=(), share=1.0)
    assert from_plain(Whole, {"parts": [], "extra": None}, "here").extra is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prats": []}, "unknown field 'prats': did you mean 'parts'? known: either, extra, "),
        (
            {"parts": [{"name": "a", "spam": 1}]},
            "unknown field 'parts[0].spam': did you mean 'span'? known: name, span",
        ),
        ({"parts": [{}]}, "missing field 'parts[0].name'"),
        ({"parts": {"name": "a"}}, "parts: got {'name': 'a'}, expected a list"),
        ({"parts": ["a"]}, "parts[0]: got 'a', expected a mapping of fields"),
        ({"parts": [{"name": 1}]}, "parts[0].name: got 1, expected text"),
        ({"parts": [{"name": "a", "span": [1]}]}, "parts[0].span: got [1], expected a list of 2"),
        ({"parts": [{"name": "a", "span": [1, 2.0]}]}, "parts[0].span[1]: got 2.0, expected a whole number"),
        ({"mode": "slow"}, "mode: got 'slow', expected fast or 3"),
        ({"mode": True}, "mode: got True, expected fast or 3"),
        ({"share": "1e-3"}, "share: got '1e-3', expected a number"),
        ({"share": True}, "share: got True, expected a number"),
        ({"flag": 1}, "flag: got 1, expected true or false"),
        ({"table": [1]}, "table: got [1], expected a mapping of names"),
        ({"table": {"x": "1"}}, "table.x: got '1', expected a whole number"),
        ({"table": {3: 1}}, "table: got 3, expected text"),
        ({"extra": 3}, "extra: got 3, expected a mapping of fields"),
        ({"extra": {"name": 3}}, "extra.name: got 3, expected text (put it in quotes)"),
        ({"either": []}, "either: got [], expected text or a whole number"),
        ({"share": "x" * 500}, "..., expected a number"),
        ({"share": 10**20}, "share: got 100000000000000000000, expected a number"),
        ({"table": {"x": 10**20}}, "table.x: got 100000000000000000000, expected a whole number of at most 64 bits"),
        ({"table": {"x": 10**5000}}, "table.x: got a int, expected a whole number of at most 64 bits"),
        ({"x" * 500: 1}, "xxx...': known: either"),
        ({"table": {"x" * 500: "1"}}, "xxx...: got '1', expected a whole number"),
    ],
)
def test_bad_values_are_refused_in_one_line_with_their_place(change, message):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        from_plain(Whole, {"parts": [], **change}, "some.yaml")
    assert str(refusal.value).startswith("some.yaml: ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 200


def test_a_record_that_is_no_mapping_is_refused():
    with pytest.raises(UserError, match=re.escape("some.yaml: top level: got [], expected a mapping of fields")):
        from_plain(Whole, [], "some.yaml")


def test_neighbours_without_anything_known():
    assert neighbours("x", []) == "known: none"


def test_a_message_never_builds_what_it_does_not_show() -> None:
    value: Any = ["x"] * 10
    for _ in range(30):
        value = [value] * 10  # 10^31 items, if they were written out
    with pytest.raises(UserError, match=re.escape("mode: got [[[[...], [...]")):
        from_plain(Whole, {"parts": [], "mode": value}, "some.yaml")


def test_of_many_known_names_the_nearest_and_the_first_are_told() -> None:
    known = [f"name {i:04}" for i in range(1000)]
    message = neighbours("name 999", known)
    assert message.startswith("did you mean 'name 0999'? known: name 0000, name 0001, ")
    assert message.endswith("name 0199 and 800 more")
