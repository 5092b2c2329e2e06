"""What each component reads of its settings."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from test_choice import row
from test_localise import find

from cloning.choice import choose
from cloning.settings import CorrectionSettings, InsertionSettings, LocalisationSettings
from cloning.tuning import check_tuning
from tuning.settings import HeadSettings, TuningSettings
from zoo.errors import UserError

OTHER: dict[str, Any] = {"keep": 0.3, "num_images": 2, "num_neighbours": 3, "patch_grid": 2, "num_steps": 2}
OTHER |= {"batch_size": 3, "learning_rate": 0.5, "min_per_layer": 5, "contrast": 0.0}


@pytest.mark.parametrize("name", ["taylor", "magnitude", "random", "none"])
def test_what_a_localiser_does_not_read_changes_nothing_and_the_rest_does(name: str) -> None:
    usual = {"keep": 0.6, "num_images": 5}
    settings = LocalisationSettings(name, **usual)
    assert set(OTHER) == {field.name for field in fields(settings)} - {"name"}
    before = find("resnet", name=name, **usual)
    for key in settings.unread - {"num_steps", "batch_size", "num_neighbours"}:  # those are given by ``find``
        after = find("resnet", name=name, **{**usual, key: OTHER[key]})
        assert after.gates.equal(before.gates), key
    for key in set(usual) - settings.unread:
        after = find("resnet", name=name, **{**usual, key: OTHER[key]})
        assert not after.scores.equal(before.scores) or not after.gates.equal(before.gates), key


def test_what_a_way_to_choose_does_not_read_changes_nothing() -> None:
    rows = [row(loss=1, macs=90), row(loss=1.05, macs=50, accuracy=0.8), replace(row(loss=0.9, macs=80), position=1)]
    for name, position in (("search", None), ("fixed", 0), ("tolerance", None)):
        settings = InsertionSettings(name, position)
        found = {
            key: choose([rows], replace(settings, **{key: value})) != choose([rows], settings)
            for key, value in (("tolerance", 1.2), ("accuracy_tolerance", 1), ("inner_tolerance", 1))
        }
        assert not any(found[key] for key in settings.unread & set(found)), (name, found)


@pytest.mark.parametrize(
    "settings",
    [{"loss": "loo"}, {"head": HeadSettings(initialisation="random")}, {"head": HeadSettings(refit="always")}],
)
def test_settings_that_cloning_has_its_own_way_for_are_refused(settings: dict) -> None:
    check_tuning(TuningSettings())
    with pytest.raises(UserError, match="not for"):
        check_tuning(TuningSettings(**settings))


def test_settings_name_their_override() -> None:
    assert InsertionSettings(kernel_size="auto").kernel_size == "auto"
    for make, message in (
        (lambda: InsertionSettings(kernel_size=0), "insertion.kernel_size=0"),
        (lambda: InsertionSettings("fixed"), "insertion.position=0"),
        (lambda: InsertionSettings("search", 3), "needs insertion=fixed"),
        (lambda: InsertionSettings("deep"), "allowed are search, tolerance, fixed"),
        (lambda: CorrectionSettings(fraction=0.0), "correction.fraction=0.0"),
        (lambda: CorrectionSettings(exemplars=-1), "correction.exemplars=-1"),
    ):
        with pytest.raises(UserError, match=message):
            make()
