from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import pytest

from zoo.errors import UserError
from zoo.limits import MAX_INTEGER, SEED, above, at_least, check, from_below, one_of, shown


@dataclass(frozen=True)
class Settings:
    share: Annotated[float, above(0, 1)] = 0.5
    decay: Annotated[float, from_below(0, 1)] = 0.0
    count: Annotated[int | None, at_least(2)] = 3
    num_bytes: Annotated[int, at_least(0, MAX_INTEGER)] = 0
    seed: Annotated[int, SEED] = 0
    size: Annotated[int | str, one_of(1, 3, "auto")] = 3

    def __post_init__(self) -> None:
        check(self, "part")


ALLOWED = [
    {"share": 1},
    {"share": 5e-324},
    {"decay": 0},
    {"decay": math.nextafter(1, 0)},
    {"count": None},
    {"count": 2},
    {"num_bytes": MAX_INTEGER},
    {"seed": 2**32 - 1},
    {"size": "auto"},
    {"size": 1},
]
REFUSED = [
    ({"share": 0.0}, "part.share=0.0 is out of range; allowed: above 0, at most 1; type part.share=0.5"),
    ({"share": math.nan}, "part.share=nan is out of range"),
    ({"share": math.inf}, "part.share=inf is out of range"),
    ({"share": -math.inf}, "part.share=-inf is out of range"),
    ({"share": "0.5"}, "part.share=0.5 is not a number"),
    ({"share": True}, "part.share=true is not a number"),
    ({"decay": 1.0}, "part.decay=1.0 is out of range; allowed: at least 0, below 1"),
    ({"count": 1}, "part.count=1 is out of range"),
    ({"count": 2.0}, "part.count=2.0 is not a whole number"),
    ({"count": 10**30}, "part.count=1000000000000000000000000000000 is out of range"),
    ({"count": 10**5000}, "part.count=an integer of 16610 bits is out of range"),
    ({"num_bytes": MAX_INTEGER + 1}, f"at most {MAX_INTEGER}"),
    ({"seed": 2**32}, "part.seed=4294967296 is out of range; allowed: at least 0, at most 4294967295"),
    ({"seed": -1}, "part.seed=-1"),
    ({"size": 2}, "part.size=2 is unknown; allowed are 1, 3, auto; type part.size=3"),
    ({"size": True}, "part.size=true is unknown"),
]


@pytest.mark.parametrize("values", ALLOWED)
def test_values_within_the_limits_are_taken(values):
    assert Settings(**values)


@pytest.mark.parametrize(("values", "told"), REFUSED)
def test_values_outside_are_refused_in_one_line(values, told):
    with pytest.raises(UserError) as error:
        Settings(**values)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_number_without_limits_is_a_fault_of_ours():
    @dataclass(frozen=True)
    class Careless:
        count: int = 3

        def __post_init__(self) -> None:
            check(self, "part")

    Careless.__annotations__["count"] = int
    with pytest.raises(TypeError, match=r"Careless\.count is a number without limits"):
        Careless()


def test_long_values_are_shown_by_their_ends():
    assert shown("x" * 1000) == "x" * 37 + "..." + "x" * 20
    assert shown(None) == "null"
    assert shown(True) == "true"
