"""Cloning on another device: nothing of it stays on the CPU, and its results are other entries of the store."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from cloning_stand_ins import small_data, small_zoo

from cloning.network import ClonedNetwork
from cloning.pipeline import CloningSearch
from cloning.result import CloningSearchResult
from cloning.settings import CloningSettings, CorrectionSettings, InsertionSettings, LocalisationSettings, TaskSettings
from tests.fake_device import FAKE, fake_device
from zoo.devices import CPU, Placement
from zoo.storage.store import Store

ZOO = small_zoo()
QUICK = LocalisationSettings(keep=0.6, num_steps=2, batch_size=4, num_neighbours=4, num_images=6)
SETTINGS = CloningSettings(
    TaskSettings(tuple("abcde")),
    QUICK,
    InsertionSettings("fixed", position=2, num_epochs=1),
    CorrectionSettings(fraction=0.5, exemplars=3),
)


def run(
    root: Path, placement: Placement, settings: CloningSettings
) -> tuple[CloningSearch, CloningSearchResult, ClonedNetwork]:
    search = CloningSearch(ZOO, small_data(), settings, store=Store(root), seed=0, placement=placement)
    found = search.run()
    network = search.build(found.blueprint)
    assert {parameter.device for parameter in network.parameters()} == {torch.device("cpu")}
    return search, found, network


def measured(search: CloningSearch, network: ClonedNetwork) -> list:
    return [asdict(search.accuracies(network)), *(asdict(one) for one in search.localities(network))]


CASES = {
    "lime": replace(SETTINGS, insertion=InsertionSettings(num_epochs=1), localisation=replace(QUICK, keep=None)),
    "taylor": replace(SETTINGS, localisation=replace(QUICK, name="taylor"), insertion=InsertionSettings("fixed", 0)),
    "statistics": replace(
        SETTINGS,
        localisation=replace(QUICK, name="magnitude"),
        correction=CorrectionSettings("statistics", fraction=0.5, exemplars=0),
    ),
}


@pytest.mark.parametrize(("name", "no_float64"), [("lime", True), ("taylor", False), ("statistics", True)])
def test_cloning_leaves_nothing_on_the_cpu_and_finds_the_same(
    name: str, no_float64: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = CASES[name]
    search, expected, network = run(tmp_path, CPU, settings)
    figures = measured(search, network)
    if no_float64:
        monkeypatch.setattr("zoo.ridge.NO_FLOAT64", {FAKE.type})
    with fake_device(no_float64=no_float64):
        moved, found, built = run(tmp_path, Placement(FAKE), settings)
        assert measured(moved, built) == figures
    assert {"localisation", "insertion"} <= set(moved.store.misses)
    assert found.blueprint == expected.blueprint
    assert [replace(row, seconds=0) for row in found.positions] == [
        replace(row, seconds=0) for row in expected.positions
    ]
    state = network.cpu().state_dict()
    assert all(torch.equal(tensor.cpu(), state[name]) for name, tensor in built.state_dict().items())


def test_bfloat16_is_another_entry_and_finds_as_much(tmp_path: Path) -> None:
    settings = replace(SETTINGS, localisation=replace(QUICK, name="magnitude"), insertion=InsertionSettings("fixed", 0))
    _, expected, _ = run(tmp_path, CPU, settings)
    search, found, _ = run(tmp_path, Placement(precision="bfloat16"), settings)
    assert {"localisation", "insertion"} <= set(search.store.misses)
    # fifteen images and random weights: the head magnifies what is rounded, and is far from guessing
    assert found.chosen[0].loss != expected.chosen[0].loss
    assert found.chosen[0].loss < math.log(5)
