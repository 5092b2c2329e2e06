"""YAML and JSON of ours: what they know, and that what they do not know costs nothing."""

from __future__ import annotations

import random
import re

import pytest
import yaml

from zoo.errors import UserError
from zoo.storage.plain import MAX_DEPTH, dump_yaml, parse_json, parse_yaml


def test_yaml_is_laid_out_like_a_recipe():
    text = dump_yaml({"steps": [{"take": "flour", "of": [1, 2]}], "bake": {"minutes": 30}})
    assert text == "steps:\n  - {take: flour, of: [1, 2]}\nbake:\n  minutes: 30\n"


def test_repeated_content_is_written_out_without_anchors():
    shared = {"x": 1}
    assert "&" not in dump_yaml({"a": shared, "b": shared})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("x: ", {"x": None}),
        ("[true, False, null]", [True, False, None]),
        ("[0, -3, +4, 1_000_000]", [0, -3, 4, 1000000]),
        ("[1.5, .5, 1., 1e-5, -2E3]", [1.5, 0.5, 1.0, 1e-5, -2000.0]),
        ("['yes', \"1:30\", '010', '.inf', '~']", ["yes", "1:30", "010", ".inf", "~"]),
        ("[a b, 1st, v1.2.3, sha256:00, 1-2, é]", ["a b", "1st", "v1.2.3", "sha256:00", "1-2", "é"]),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("# a remark\n---\na: {b: [{c: 1}]}\n", {"a": {"b": [{"c": 1}]}}),
    ],
)
def test_values_are_what_a_reader_expects(text: str, value: object) -> None:
    found = parse_yaml(text, "here")
    assert found == value
    assert repr(found) == repr(value)  # 1 is not True


NESTED = "[&l0 [x,x,x,x,x,x,x,x,x,x]" + "".join(f", &l{i} [{','.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9)) + "]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (f"a: 1\nx: {value}", f"line 2, column 4: {value} means different things")
            for value in ("yes", "No", "on", "1:30", "0o7", "010", "08", "0x1F", "0b1", "1_0", ".inf", "-.INF", ".nan")
        ),
        *((f"x: {value}", f"{value} means different things") for value in ("2020-01-01", "=", "+12:30:45", "<<")),
        ("<<: {a: 1}", "line 1, column 1: << means different things"),
        (NESTED, "line 1, column 2: anchors and aliases (& and *) are not read"),
        ("x: *y", "anchors and aliases"),
        ("x: !!python/object:os.system {}", "tags are not read"),
        ("x: !!str 3", "tags are not read"),
        ("x: ! 3", "tags are not read"),
        ("a: {b: 1, 'b': 2}", "line 1, column 11: key 'b' is given twice"),
        ("1: a\n1.0: b", "key '1.0' is given twice"),
        ("? [a]\n: b", "a mapping or list as a key"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document begins"),
        ("x: 1e400", "1e400 is larger than any number"),
        ("x: " + "9" * 5000, "a number of 5000 digits, 99999999999999999999..."),
        ("[" * 50_000, "not readable as YAML|inside each other"),
        ("- " * 50_000, f"more than {MAX_DEPTH} mappings and lists inside each other"),
        ("x: [1", "not readable as YAML"),
        ("x: \0", "not readable as YAML"),
        ("\t", "not readable as YAML"),
        ("#" * 3_000_000, "3,000,000 bytes, but at most 2,097,152 are read"),
    ],
)
def test_anything_else_is_refused_at_once_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UserError, match="|".join(map(re.escape, message.split("|")))) as refusal:
        parse_yaml(text, "here")
    assert str(refusal.value).startswith("here: ")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_what_is_written_is_read_back_whatever_the_text() -> None:
    drawn, letters = random.Random(0), "01eE+-.:_xonyaftrul<=#'\"&*!{}[],? \n\t|>%@`É"
    texts = ["".join(drawn.choices(letters, k=length)) for length in range(7) for _ in range(100)]
    texts += ["yes", "1:30", "1e5", "010", "0o7", "1_000", ".inf", "<<", "=", "2020-01-01", "x" * 3000]
    value = {text: [text, [[text]], True, None, 3, 1e-5, -0.0] for text in texts}
    assert parse_yaml(dump_yaml(value), "here") == value
    assert yaml.safe_load(dump_yaml(texts)) == texts  # by other readers too


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_would_not_be_read_back_is_not_written(number: float) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        dump_yaml({"a": [number]})


def test_json_is_read() -> None:
    assert parse_json('{"a": [1, -2.5e3, null, true, "é"]}', "here") == {"a": [1, -2500.0, None, True, "é"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": ', "not readable as JSON"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ("[NaN]", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is larger than any number"),
        ("[" + "9" * 5000 + "]", "a number of 5000 digits"),
        ("[" * 200_000, "not readable as JSON"),
        (b"\xff\xfe[", "not readable as JSON"),
        ("", "not readable as JSON"),
    ],
)
def test_damaged_json_is_refused_in_one_line(text: str | bytes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        parse_json(text, "here")
    assert str(refusal.value).startswith("here: ")
    assert "\n" not in str(refusal.value)
