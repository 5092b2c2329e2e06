from __future__ import annotations

import itertools
import random

import pytest

from cloning.selection import NetworkProfile, Source, minimum_cover, select
from zoo.errors import UserError


def sized(name: str, classes: str, accuracy: float = 0.0, num_params: int = 0) -> NetworkProfile:
    return NetworkProfile(name, tuple(classes), accuracy, num_params)


ZOO = [
    sized("low", "012345", 98.0, 10),
    sized("even", "02468", 98.0, 5),
    sized("odd", "13579", 95.0, 7),
]


def brute_force_cover(candidates: list[NetworkProfile], wanted: list[str]) -> tuple | None:
    def cost(chosen: tuple[NetworkProfile, ...]) -> tuple:
        superfluous = sum(len(set(c.classes) - set(wanted)) for c in chosen)
        points = -sum(round(1000 * c.accuracy) for c in chosen)
        return len(chosen), superfluous, points, sum(c.num_params for c in chosen)

    subsets = itertools.chain.from_iterable(
        itertools.combinations(candidates, size) for size in range(1, len(candidates) + 1)
    )
    covers = [s for s in subsets if set(wanted) <= {name for c in s for name in c.classes}]
    return min(map(cost, covers)) if covers else None


@pytest.mark.parametrize("seed", range(60))
def test_minimum_cover_is_that_of_full_enumeration(seed: int) -> None:
    rng = random.Random(seed)
    names = "abcdefgh"[: rng.randint(2, 8)]
    candidates = [
        sized(
            f"n{i}",
            "".join(rng.sample(names, rng.randint(1, len(names) // 2 + 1))),
            rng.choice([90, 95]),
            rng.randint(1, 3),
        )
        for i in range(rng.randint(2, 7))
    ]
    wanted = rng.sample(names, rng.randint(1, len(names)))
    expected = brute_force_cover(candidates, wanted)
    cover = minimum_cover(candidates, wanted)
    if expected is None:
        assert cover is None
    else:
        superfluous = sum(len(set(c.classes) - set(wanted)) for c in cover)
        points = -sum(round(1000 * c.accuracy) for c in cover)
        assert (len(cover), superfluous, points, sum(c.num_params for c in cover)) == expected


def test_target_has_the_largest_overlap_and_every_class_has_one_owner() -> None:
    selection = select(ZOO, list("0123456789"))
    assert selection.target == "low"
    assert selection.kept == tuple("012345")
    assert selection.sources == (Source("even", ("6", "8")), Source("odd", ("7", "9")))
    assert selection.cloned == ("6", "8", "7", "9")


def test_tied_targets_all_compete_and_fewer_sources_win() -> None:
    zoo = [sized("a", "01"), sized("b", "12"), sized("c", "3"), sized("d", "23"), sized("e", "0")]
    selection = select(zoo, list("0123"))  # a + d needs one source, b needs two
    assert (selection.target, selection.sources) == ("a", (Source("d", ("2", "3")),))


def test_fewer_superfluous_classes_then_accuracy_then_size_break_ties() -> None:
    assert select([*ZOO, sized("six", "68", 50.0)], list("01234568")).sources[0].network == "six"
    assert select([*ZOO, sized("even2", "02468", 99.0)], list("01234568")).sources[0].network == "even2"
    assert select([*ZOO, sized("even3", "02468", 98.0, 4)], list("01234568")).sources[0].network == "even3"


def test_a_class_known_to_several_chosen_sources_goes_to_the_most_accurate() -> None:
    zoo = [sized("t", "0"), sized("a", "12", 90.0), sized("b", "23", 95.0)]
    assert select(zoo, list("0123"), target="t").sources == (Source("a", ("1",)), Source("b", ("2", "3")))


def test_fixed_target_restricted_sources_and_explicit_cloned_classes() -> None:
    zoo = [*ZOO, sized("all", "0123456789", 99.0)]
    assert select(zoo, list("0123456789"), target="low").sources == (Source("all", tuple("6789")),)
    fixed = select(zoo, list("0123456789"), target="low", sources=["even", "odd"])
    assert [source.network for source in fixed.sources] == ["even", "odd"]
    explicit = select(ZOO, list("024"), cloned=["1", "8"], target="low")
    assert explicit.kept == tuple("024")
    assert explicit.cloned == ("8", "1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": []}, "is empty"),
        ({"classes": ["0", "0"]}, "more than once"),
        ({"classes": ["0", "x", "y"]}, r"\[x,y\]: unknown to every network of the zoo; it knows \[0,1,2"),
        ({"classes": ["0", "1"], "cloned": ["1"]}, "overlap in 1"),
        ({"classes": ["0", "6"], "target": "lov"}, "did you mean 'low'"),
        ({"classes": ["0", "6"], "target": "low", "sources": ["low"]}, "cannot give to itself"),
        ({"classes": ["0", "7"], "target": "low", "sources": ["even"]}, r"\[7\] are known to no source"),
        ({"classes": ["0", "1"]}, "nothing is to be cloned"),
        ({"classes": ["7"], "target": "low"}, r"target low knows none of task\.classes=\[7\]: type task\.target=null"),
        (
            {"classes": ["5", "7"], "cloned": ["6"], "target": "low"},
            "target low does not know them all; type task.target=",
        ),
        ({"classes": ["0", "7"], "cloned": ["8"]}, "no single network knows them all"),
    ],
)
def test_bad_input_is_one_line(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        select(ZOO, **arguments)
    assert "\n" not in str(error.value)
