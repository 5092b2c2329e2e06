from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from cloning.choice import Combination, PositionResult, choose
from cloning.settings import AddedBudget, InsertionSettings
from zoo.errors import UserError


def row(source: str = "s", *, loss: float, macs: int, local: bool = True, accuracy: float = 0.9) -> PositionResult:
    return PositionResult(
        *(source, 0, 0, loss, accuracy, accuracy, 0, 0, 0.0),
        sim_cloned=0.95,
        sim_other=0.1 if local else 0.9,
        added_params=macs // 2,
        added_macs=macs,
    )


def test_what_is_together_counts_more_than_the_sum() -> None:
    tables = [[row(name, loss=loss, macs=100 - 10 * loss) for loss in (1.0, 1.1)] for name in "ab"]

    def together(rows: tuple[PositionResult, ...]) -> Combination:
        return replace(
            Combination.summed(rows), loss=4 - sum(one.loss for one in rows), val_original=0.5, val_cloned=0.5
        )

    for name in ("search", "tolerance"):
        settings = InsertionSettings(name, tolerance=1)
        assert choose(tables, settings) == tuple(table[0] for table in tables)
        assert choose(tables, settings, together=together) == tuple(table[1] for table in tables)
        assert choose(tables[:1], settings, together=together) == (tables[0][0],)  # one source is alone


@pytest.mark.parametrize("name", ["search", "tolerance"])
def test_the_choice_follows_its_rule(name: str) -> None:
    settings = InsertionSettings(name, tolerance=1.25)
    for losses in itertools.permutations([1.0, 1.2, 1.3, 2.0]):
        rows = [row(loss=loss, macs=100 - r) for r, loss in enumerate(losses)]
        allowed = [r for r, loss in enumerate(losses) if loss <= (1.25 if name == "tolerance" else 1.0)]
        assert choose([rows], settings) == (rows[max(allowed)],)  # the cheapest of them


def test_local_modules_come_first_and_accuracy_is_not_given_away() -> None:
    settings = InsertionSettings("tolerance")
    local, cheap = row(loss=1.1, macs=90), row(loss=1.0, macs=50, local=False)
    assert choose([[local, cheap]], settings) == (local,)
    wrong = row(loss=1.1, macs=10, accuracy=0.89)
    assert choose([[local, cheap, wrong]], settings) == (local,)
    assert choose([[local, cheap, wrong]], replace(settings, accuracy_tolerance=0.02)) == (wrong,)


def test_the_whole_source_is_taken_where_no_part_comes_near() -> None:
    settings = InsertionSettings("tolerance")
    whole, half, less = (replace(row(loss=1, macs=90 * keep), keep=keep) for keep in (1.0, 0.5, 0.4))
    near, far, farther = (replace(part, loss=loss) for part, loss in ((half, 1.5), (half, 1.51), (less, 1.9)))
    assert choose([[whole, near, farther]], settings) == (near,)  # measured by the best part
    assert choose([[whole, far, farther]], settings) == (whole,)
    assert choose([[whole, near]], settings, AddedBudget(max_macs=100)) == (whole,)


def test_behind_the_image_a_try_has_to_do_better_than_there() -> None:
    settings = InsertionSettings("tolerance")
    image, better, worse = (
        replace(row(loss=loss, macs=macs), position=position)
        for position, (loss, macs) in enumerate([(1, 90), (0.8, 70), (0.81, 50)])
    )
    table = [image, better, worse]
    assert choose([table], settings) == (better,)
    assert choose([[image, worse]], settings) == (image,)
    assert choose([table], replace(settings, inner_tolerance=0.85)) == (worse,)
    assert choose([table], settings, AddedBudget(max_macs=60)) == (worse,)


def test_a_budget_binds_all_sources_together() -> None:
    settings = InsertionSettings("tolerance", tolerance=1.0)
    tables = [[row("a", loss=1.0, macs=100), row("a", loss=3.0, macs=20)]]
    tables.append([row("b", loss=1.0, macs=100), row("b", loss=2.0, macs=30)])
    for limit, expected in ((200, (100, 100)), (199, (100, 30)), (130, (100, 30)), (129, (20, 100)), (50, (20, 30))):
        found = choose(tables, settings, AddedBudget(max_macs=limit))
        assert tuple(found.added_macs for found in found) == expected
    assert [found.added_params for found in choose(tables, settings, AddedBudget(max_params=70))] == [50, 15]
    with pytest.raises(UserError, match=r"budget.max_macs=49: no clones add so little; .*: type budget.max_macs=50$"):
        choose(tables, settings, AddedBudget(max_macs=49))
    with pytest.raises(UserError, match=r"type budget.max_macs=50$"):
        choose(tables, settings, AddedBudget(max_macs=0))


def test_what_is_too_much_to_combine_loses_no_choice_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloning.choice.MAX_COMBINATIONS", 6)
    tables = [[row(name, loss=4.0 - n, macs=10 + 10 * n) for n in range(4)] for name in "ab"]
    found = choose(tables, InsertionSettings("tolerance"), AddedBudget(max_macs=20))
    assert [each.added_macs for each in found] == [10, 10]
