from __future__ import annotations

import pytest

from zoo.classes import class_difference


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("abc", None),
        ("acb", "the same classes in another order: class 1 is 'c' instead of 'b'"),
        ("aBc", "classes in other capitals: 'B' instead of 'b'"),
        ("ab", "2 classes instead of 3, missing: 'c'"),
        ("abd", "missing: 'c', not among them: 'd'"),
        ("abcdefgh", "8 classes instead of 3, not among them: 'd', 'e', 'f' and 2 more"),
    ],
)
def test_says_how_classes_differ(given: str, told: str | None) -> None:
    assert class_difference(list(given), list("abc")) == told
