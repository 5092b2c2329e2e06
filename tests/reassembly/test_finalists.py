"""Which candidates get a seat, and how short tuning decides between them."""

from __future__ import annotations

import itertools
import math

import pytest

from reassembly.assembly import Candidate, ScoredCandidate
from reassembly.finalists import best_of_each_kind, choose_finalists, decide, decided
from reassembly.settings import SelectionSettings
from zoo.blueprint import BlockSpec
from zoo.errors import UserError


def entry(networks: str, ridge: float, cuts: float, *, end: int | None = None, is_adapted: bool = False):
    """A candidate of networks with one letter each; the last block may end at another node."""
    blocks = [
        BlockSpec(name, (ends[0], ends[1])) for name, ends in zip(networks, [(0, 3), (3, 6), (6, 9)], strict=False)
    ]
    if end is not None:
        blocks[-1] = BlockSpec(networks[-1], (blocks[-1].nodes[0], end))
    is_one = len(set(networks)) == 1
    kind = ("network" if blocks[-1].nodes[1] == 9 else "truncated") if is_one else "assembly"
    scores = {"ridge": ridge, "ridge_cuts": cuts, "params": float(len(networks))}
    return ScoredCandidate(Candidate(tuple(blocks), kind, 10 * len(networks), 5, is_adapted=is_adapted), scores)


SCORED = [
    entry("ab", 0.95, -0.9),
    entry("aa", 0.94, -0.3, end=5),
    entry("aa", 0.94, -0.3, end=5, is_adapted=True),
    entry("aa", 0.93, -0.2),
    entry("abb", 0.92, -0.1),
    entry("bc", 0.91, -0.5),
    entry("ccc", 0.90, -0.8),
    entry("ccc", 0.90, -0.8, is_adapted=True),
    entry("bbb", 0.80, -0.7),
    entry("cba", 0.70, math.nan),
]


def named(entries) -> list[str]:
    return [e.candidate.composition for e in entries]


def test_seats_are_filled_in_their_order_by_the_best_that_differ():
    seats = ("ridge_cuts", "ridge", "truncated", "network", "ridge_cuts")
    found = choose_finalists(SCORED, 5, SelectionSettings(seats=seats))
    assert named(found) == [
        "a[0:3] + b[3:9]",  # first by all cuts
        "a[0:3] + b[3:6]",  # first by ridge
        "a[0:3] + a[3:5]",  # the truncation that has something to train; its twin without adapters has no seat
        "c[0:3] + c[3:6] + c[6:9]",
        "b[0:3] + c[3:6]",  # a[0:6] takes blocks of the same networks as a[0:3] + a[3:5]
    ]
    assert named(choose_finalists(SCORED, 2, SelectionSettings(seats=seats))) == named(found)[:2]
    more = choose_finalists(SCORED, 7, SelectionSettings(seats=seats))
    assert named(more)[5:] == ["b[0:9]", "c[0:3] + b[3:6] + a[6:9]"]  # by the search's own order
    assert len(choose_finalists(SCORED, 100, SelectionSettings(seats=seats))) == 7


@pytest.mark.parametrize(
    ("seats", "expected"),
    [
        (("ridge_cuts", "ridge", "network", "truncated"), ["abb", "ab", "a5", "bc"]),
        (("network", "ridge_cuts"), ["abb", "a"]),
        (("network", "network", "ridge"), ["ab", "a5", "abb"]),
        (("network", "network"), ["ab", "a5"]),
        (("network", ""), ["ab", "a5"]),  # more finalists than seats
    ],
)
def test_a_seat_of_a_kind_of_which_nothing_fits_goes_by_the_first_score(
    seats: tuple[str, ...], expected: list[str]
) -> None:
    short = {
        "ab": "a[0:3] + b[3:6]",
        "abb": "a[0:3] + b[3:9]",
        "bc": "b[0:3] + c[3:6]",
        "a": "a[0:6]",
        "a5": "a[0:3] + a[3:5]",
    }
    without = [e for e in SCORED if e.candidate.kind != "network"]
    found = choose_finalists(without, len(seats), SelectionSettings(seats=tuple(filter(None, seats))))
    assert named(found) == [short[name] for name in expected]


def test_as_many_finalists_as_differ_are_found_and_fewer_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="reassembly.finalists"):
        found = choose_finalists(SCORED, 100, SelectionSettings(seats=("network", "truncated")))
    assert f"{len(found)} of 100 finalists: no other differs enough from these" in caplog.text
    assert len(found) == len(choose_finalists(SCORED, 100, SelectionSettings(seats=())))


def test_finalists_differ_in_as_many_stages_as_asked_for():
    loose = choose_finalists(SCORED, 100, SelectionSettings(seats=(), min_difference=0))
    assert len(loose) == len(SCORED) - 2  # all but the twins of what has adapters
    apart = choose_finalists(SCORED, 100, SelectionSettings(seats=(), min_difference=2))
    assert named(apart)[:2] == ["a[0:3] + b[3:6]", "b[0:3] + c[3:6]"]
    for i, one in enumerate(apart):
        for other in apart[:i]:
            pairs = itertools.zip_longest(one.candidate.blocks, other.candidate.blocks)
            assert sum(None in pair or pair[0].network != pair[1].network for pair in pairs) >= 2


def test_every_rung_is_tuned_anew_and_its_better_half_goes_on():
    finalists = SCORED[:5]
    worth = dict(zip(named(finalists), (0.1, 0.5, 0.5, 0.9, 0.3), strict=True))
    runs: list[tuple[str, int]] = []

    def tune(candidate, num_epochs: int) -> float:
        runs.append((candidate.candidate.composition, num_epochs))
        return worth[candidate.candidate.composition] - (0.5 if num_epochs == 4 and len(runs) == 6 else 0)

    found = decide(finalists, (1, 4), tune)
    assert [epochs for _, epochs in runs] == [1] * 5 + [4] * 3
    assert named(found) == [named(finalists)[i] for i in (1, 2, 3, 4, 0)]  # the first of the rung fell behind
    assert [e.scores["short_tuning"] for e in found] == pytest.approx([0.5, 0.5, 0.4, 0.3, 0.1])
    for few in (1, 2):
        runs.clear()
        assert set(named(decide(finalists[:few], (1, 2), tune))) == set(named(finalists[:few]))
        assert [epochs for _, epochs in runs] == [2] * few


def test_the_best_network_of_one_piece_stays_to_the_last_rung():
    finalists = [entry(networks, 0.9, -0.1) for networks in ("ab", "ba", "bc", "cb", "aa", "bb")]
    first = dict(zip(named(finalists), (0.6, 0.5, 0.4, 0.3, 0.2, 0.1), strict=True))
    runs: list[tuple[str, int]] = []

    def tune(candidate, num_epochs):
        runs.append((candidate.candidate.composition, num_epochs))
        is_whole = candidate.candidate.kind != "assembly"
        return first[candidate.candidate.composition] + (is_whole and num_epochs == 4)

    found = decide(finalists, (1, 2, 4), tune)
    assert [name for name, epochs in runs if epochs == 2] == [named(finalists)[i] for i in (0, 1, 4)]
    assert [name for name, epochs in runs if epochs == 4] == [named(finalists)[i] for i in (0, 4)]
    assert named(found) == [named(finalists)[i] for i in (4, 0, 1, 2, 3, 5)]


@pytest.mark.parametrize(("max_epochs", "rungs"), [(None, [1, 2, 4]), (3, [1, 2, 3]), (2, [1, 2]), (1, [1]), (0, [0])])
def test_no_rung_is_longer_than_the_tuning_that_follows(max_epochs: int | None, rungs: list[int]):
    epochs: list[int] = []
    rule = SelectionSettings(seats=())

    def tune(candidate, num_epochs):
        epochs.append(num_epochs)
        return candidate.scores["ridge_cuts"]

    found = decided(SCORED, 5, rule, tune, max_epochs)
    assert list(dict.fromkeys(epochs)) == rungs
    assert found[0].scores["short_tuning"] == max(e.scores["short_tuning"] for e in found[:5])


def test_the_others_stay_as_they_were_behind_the_finalists():
    rule = SelectionSettings(seats=("params",))
    found = decided(SCORED, 2, rule, lambda candidate, _: candidate.scores["ridge_cuts"])
    assert named(found)[0] == "a[0:3] + b[3:9]"
    assert found[2:] == [e for e in SCORED if e.candidate not in {f.candidate for f in found[:2]}]
    best = dict(best_of_each_kind(found))
    assert best["network"].candidate.blocks[0].network == "c"
    assert best["truncated"].candidate == SCORED[1].candidate


def test_wrong_seats_and_rungs_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"selection\.seats=rigde") as caught:
        SelectionSettings(seats=("rigde",))
    assert "\n" not in str(caught.value)
    for rungs, allowed in (((), "holds no number"), ((0,), "at least 1"), ((1, -2), "at least 1")):
        with pytest.raises(UserError, match=rf"selection\.num_epochs=.*{allowed}"):
            SelectionSettings(num_epochs=rungs)
    assert SelectionSettings().proxies(1) == ()
    assert set(SelectionSettings().proxies(9)) == {"ridge_cuts", "ridge"}
