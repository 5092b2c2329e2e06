"""Whether the blocks of a composition foretell its accuracy."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.selection import Row
from studies.surrogate import RULES, compare, main, worths
from zoo.errors import UserError

WORTHS = {"a": {"x[0:1]": 0.1, "y[0:1]": 0.2}, "b": {"x[1:2]": 0.1, "y[1:2]": 0.3}}


def row(composition: str, accuracy: float, *, split: int, epochs: int = -4) -> Row:
    return Row(
        "digits", split, "freeze", epochs, composition, "assembly", 1, accuracy, accuracy if epochs < 0 else None
    )


def additive(sign: float, **place: int) -> list[Row]:
    parts = itertools.product(*(kind.items() for kind in WORTHS.values()))
    return [row(f"{first} + {last}", 0.5 + sign * (a + b), **place) for (first, a), (last, b) in parts]


def test_the_worths_of_an_additive_accuracy_are_found() -> None:
    rows = additive(1.0, split=0)
    found = worths(rows, [one.val for one in rows], penalty=1e-6)
    assert found["y[0:1]"] - found["x[0:1]"] == pytest.approx(0.1, abs=1e-4)
    assert found["y[1:2]"] - found["x[1:2]"] == pytest.approx(0.2, abs=1e-4)


def test_every_rule_is_learnt_from_its_own_rows() -> None:
    rows = [*additive(1.0, split=0), *additive(1.0, split=1)]
    rows += [*additive(-1.0, split=0, epochs=1), *additive(-1.0, split=1, epochs=1)]
    found = compare(rows)
    assert [np.sign(found[rule].tau) for rule in RULES] == [1, -1, -1]
    assert set(compare(additive(1.0, split=0))) == set()  # no other split, no first epoch


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file: type that of"):
        main(["--rows", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out")])
    rows = tmp_path / "rows.jsonl"
    first = {"data": "digits", "split": 0, "mode": "freeze", "epochs": 1, "composition": "a", "kind": "whole"}
    rows.write_text(json.dumps({**first, "num_params": 1, "val": 0.5}) + "\n")
    with pytest.raises(UserError, match="nothing in it is tuned to the end"):
        main(["--rows", str(rows), "--output", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out*"))
