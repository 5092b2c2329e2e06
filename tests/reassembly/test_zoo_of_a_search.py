"""What a search makes of its zoo: names, networks that are there twice, and those that it cannot use."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from search_stand_ins import SETTINGS, search

from reassembly.report import write_report
from zoo.entries import ZooEntry
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import Zoo


def test_networks_of_other_names_are_found_by_these(zoo, data, root) -> None:
    before = search(zoo, data, root).run()
    first, second, third = zoo.values()
    swapped = [replace(second, name=first.name), replace(first, name=second.name), replace(third, name="renamed")]
    names = dict(zip(zoo, [second.name, first.name, "renamed"], strict=True))
    found = search(Zoo("three", [swapped[1], swapped[0], swapped[2]]), data, root).run()
    assert "features" in found.reused
    assert {name: found.descriptions[names[name]].digest for name in zoo} == {
        name: description.digest for name, description in before.descriptions.items()
    }

    def listed(result, names):
        return {
            (*((names[block.network], block.nodes) for block in one.blocks), one.is_adapted, one.num_params, one.macs)
            for one in (entry.candidate for entry in result.candidates)
        }

    assert listed(found, {name: name for name in names.values()}) == listed(before, names)


def test_a_network_that_is_there_twice_is_two_networks(zoo, data, root) -> None:
    first, second, _ = zoo.values()
    found = search(Zoo("twice", [first, replace(first, name="again"), second]), data, root).run()
    assert set(found.descriptions) == {first.name, "again", second.name}
    assert {block.network for entry in found.candidates for block in entry.candidate.blocks} == set(found.descriptions)


def test_a_zoo_goes_on_without_what_is_no_chain_where_told_to(zoo, data, root, tmp_path: Path) -> None:
    fields = {"source": "tests.zoo.checkpoint_stand_ins:small", "input": zoo["vit_digits"].input}
    entries = [*zoo.values(), ZooEntry(name="short", **fields)]
    with pytest.raises(UserError, match="short"):
        search(Zoo("four", entries), data, root).run()
    found = search(Zoo("four", entries, leave_out="unfit"), data, root).run()
    assert found.blueprint.blocks == search(zoo, data, root).run().blueprint.blocks
    assert list(found.left_out) == ["short"]
    write_report(found, SETTINGS, tmp_path)
    rows = list(csv.reader((tmp_path / "left_out.csv").read_text().splitlines()))
    assert rows == [["network", "reason"], ["short", found.left_out["short"]]]


def test_all_networks_that_cannot_be_used_are_told_together_before_an_image_runs(zoo, data, root) -> None:
    fields = {"source": "tests.zoo.checkpoint_stand_ins:small", "input": zoo["vit_digits"].input}
    entries = [*zoo.values(), *(ZooEntry(name=name, **fields) for name in ("short", "brief"))]
    searched = search(Zoo("five", entries), data, root)
    with pytest.raises(UserError, match=r"^2 networks cannot be used: short is no chain.*; brief is no chain"):
        searched.run()
    assert not searched.store.misses


def test_networks_too_short_for_the_blocks_are_left_out_where_told_to(zoo, data, root) -> None:
    settings = replace(SETTINGS, partition=replace(SETTINGS.partition, num_blocks=7))
    shortest = min(zoo, key=lambda name: len(load_chain(zoo[name])))
    found = search(Zoo("three", zoo.values(), leave_out="unfit"), data, root, settings).run()
    assert shortest in found.left_out
    assert "too few for 7 blocks" in found.left_out[shortest]


def test_a_chain_too_short_is_refused_by_name(zoo, data, root) -> None:
    settings = replace(SETTINGS, partition=replace(SETTINGS.partition, num_blocks=7))
    with pytest.raises(UserError, match=r"vit_digits.*partition.num_blocks="):
        search(zoo, data, root, settings).run()
