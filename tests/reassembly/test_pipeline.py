"""The search as a whole, on three networks of the embedded zoo and real digits."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from search_stand_ins import SETTINGS, search

from datamodules import Digits
from reassembly.assembly import joined
from reassembly.features import node_features
from reassembly.finalists import choose_finalists
from reassembly.network import assemble
from reassembly.proxies import PROXIES, Proxy
from reassembly.proxies.leep import leep_score
from reassembly.report import write_report
from reassembly.scoring import Scorer
from reassembly.settings import (
    AdapterSettings,
    Budget,
    CompositionSettings,
    ProxySettings,
    SelectionSettings,
    SimilaritySettings,
)
from zoo import chain_cache
from zoo.blueprint import BlockSpec, read_blueprint
from zoo.chain.costs import count
from zoo.chain.signals import pool
from zoo.errors import UserError
from zoo.loading import load_chain
from zoo.registry import Zoo
from zoo.storage.reports import kept_report
from zoo.storage.store import Store


def test_the_pick_is_the_best_candidate_within_the_budget_and_costs_what_was_said(zoo, data, root) -> None:
    run = search(zoo, data, root)
    found = run.run()
    scores = [entry.scores["ridge"] for entry in found.candidates]
    assert scores == sorted(scores, reverse=True)
    assert all(entry.candidate.num_params <= 250_000 for entry in found.candidates)
    pick = found.candidates[0].candidate
    assert found.blueprint.blocks == joined(pick.blocks)
    network = run.build(found.blueprint)
    costs = count(network, zoo[pick.blocks[0].network].input.example())
    assert (costs.num_params, costs.macs) == (pick.num_params, pick.macs)


def test_every_candidate_costs_what_its_network_counts(zoo, data, root) -> None:
    run = search(zoo, data, root)
    found = run.run()
    for entry in found.candidates[::3]:
        blueprint = run.blueprint(entry, found.descriptions)
        costs = count(assemble(blueprint, run.chains), zoo[blueprint.blocks[0].network].input.example())
        assert (costs.num_params, costs.macs) == (entry.candidate.num_params, entry.candidate.macs)


def test_a_repeated_search_loads_no_network(zoo, data, root, monkeypatch: pytest.MonkeyPatch) -> None:
    first = search(zoo, data, root).run()

    def refuse(entry):
        raise AssertionError(f"{entry.name} was loaded")

    monkeypatch.setattr(chain_cache, "load_chain", refuse)
    second = search(zoo, data, root).run()
    assert second.blueprint == first.blueprint
    assert second.candidates == first.candidates
    assert set(second.reused) == {"features", "similarity", "partition", "scores"}
    with pytest.raises(AssertionError, match="was loaded"):
        search(zoo, Digits(num_train=60, num_validation=30, num_test=30, seed=1), root).run()


def test_few_seams_by_the_answers_of_probes_are_scored_and_leave_a_pick(zoo, data, root, monkeypatch) -> None:
    scored: list[str] = []
    paths = Scorer.path_scores

    def counted(self, asked, *others):
        asked = list(asked)
        scored.extend("+".join(map(str, path)) for path in asked if len(path) > 1)
        return paths(self, asked, *others)

    monkeypatch.setattr(Scorer, "path_scores", counted)
    few = replace(SETTINGS.proxy, max_scored=2, max_seams_per_block=1)
    probes = SimilaritySettings("probe_kl", num_probe_images=40)
    settings = replace(SETTINGS, similarity=probes, budget=Budget(), proxy=few)
    found = search(zoo, data, root, settings).run()
    assert ((found.similarity >= 0) & (found.similarity <= 1)).all()
    assert len(scored) == len(set(scored)) == 3  # one behind each of three blocks, not two
    assert math.isfinite(found.candidates[0].scores["ridge"])


def test_node_features_are_those_of_the_running_network(zoo, data) -> None:
    entry = zoo["vit_digits"]
    chain = load_chain(entry)
    images, _ = data.images("train", entry.input, limit=7)
    found = node_features(chain, images, batch_size=3)
    with torch.no_grad():
        for cut in range(1, len(chain)):
            expected = pool(chain.block(0, cut).eval()(images), chain.signal(cut))
            torch.testing.assert_close(found[cut - 1], expected)


def test_a_network_that_gives_nan_is_named_with_its_node(zoo, data) -> None:
    entry = zoo["vit_digits"]
    chain = load_chain(entry)
    with torch.no_grad():
        next(chain.block(2, 3).parameters()).fill_(torch.nan)
    images, _ = data.images("train", entry.input, limit=7)
    with pytest.raises(UserError, match=rf"'vit_digits': node 2 \({chain.nodes[2].name}\) gives NaN"):
        node_features(chain, images)


def test_finalists_are_decided_by_short_tuning(zoo, data, root) -> None:
    rule = SelectionSettings(seats=("ridge", "truncated", "params"))  # params: no scores are needed beside the others'
    settings = replace(SETTINGS, finalists=4, selection=rule)
    plain = choose_finalists(search(zoo, data, root).run().candidates, 4, rule)
    assert len(plain) == 4
    assert plain[1].candidate.kind == "truncated"
    epochs: list[tuple[str, int]] = []

    def tune(blueprint, num_epochs: int) -> float:
        epochs.append((blueprint.composition, num_epochs))
        return 0.5 if blueprint.blocks == plain[2].candidate.pieces else 0.1

    found = search(zoo, data, root, settings).run(tune)
    assert [num_epochs for _, num_epochs in epochs] == [1, 1, 1, 1, 4, 4]
    assert found.candidates[0].candidate == plain[2].candidate
    assert found.candidates[0].scores["short_tuning"] == 0.5
    assert "short_tuning" not in found.candidates[4].scores
    assert {entry.candidate for entry in found.candidates[:4]} == {entry.candidate for entry in plain}


def test_a_proxy_that_scores_nothing_is_refused_and_another_beside_it_is_not(zoo, data, root, monkeypatch) -> None:
    monkeypatch.setitem(PROXIES, "empty", Proxy("empty", lambda evidence: -math.inf, "nothing"))
    proxy = ProxySettings(name="params", also=("empty",))
    found = search(zoo, data, root, replace(SETTINGS, proxy=proxy)).run()
    assert {entry.scores["empty"] for entry in found.candidates} == {-math.inf}
    with pytest.raises(UserError, match=r"no candidate has a finite score by proxy\.name=empty"):
        search(zoo, data, root, replace(SETTINGS, proxy=replace(proxy, name="empty"))).run()


def test_permutation_mode_takes_one_block_of_every_set(zoo, data, root) -> None:
    settings = replace(SETTINGS, partition=replace(SETTINGS.partition, mode="permutation"))
    found = search(zoo, data, root, settings).run()
    sets: Mapping[BlockSpec, int] = {
        BlockSpec(name, (cuts[k], cuts[k + 1])): numbers[k]
        for name, cuts, numbers in zip(
            found.partition.networks, found.partition.cuts, found.partition.sets, strict=True
        )
        for k in range(2)
    }
    stages = {(block.network, block.nodes[0]): number for block, number in sets.items()}
    for entry in found.candidates:
        numbers = [stages[block.network, block.nodes[0]] for block in entry.candidate.blocks]
        assert len(set(numbers)) == len(numbers)


def test_the_baseline_is_the_named_network_or_the_best_whole_one(zoo, data, root, caplog) -> None:
    run = search(zoo, data, root, replace(SETTINGS, budget=Budget(max_params=1000)))
    with caplog.at_level(logging.INFO):
        named = run.whole_network("vit_digits")
    assert named.composition == "vit_digits[0:7]"
    assert "a whole network is under no budget, and does not fit budget.max_params=1000" in caplog.text
    best = run.whole_network(None)
    scores = {name: run.whole_network(name).provenance[0].score for name in zoo}
    assert best.blocks[0].network == max(scores, key=scores.get)
    with pytest.raises(UserError, match="'resnet'"):
        run.whole_network("resnet")


def test_whole_networks_are_ranked_by_their_own_classifiers_and_by_what_the_zoo_states(zoo, data, root) -> None:
    run = search(zoo, data, root)
    expected = {}
    for name, entry in zoo.items():
        images, labels = data.images("train", entry.input, limit=40)
        with torch.no_grad():
            expected[name] = leep_score(load_chain(entry).network(images).softmax(1), labels, 10)
    (step,) = run.whole_network(None, "leep").provenance
    assert step.proxy == "leep"
    assert step.score == pytest.approx(max(expected.values()), abs=1e-5)
    picked = run.whole_network(None, "home_accuracy")
    best = max(zoo, key=lambda name: zoo[name].accuracy.given)
    assert (picked.blocks[0].network, picked.provenance[0].score) == (best, zoo[best].accuracy.given)
    silent = Zoo("silent", [*zoo.values(), replace(zoo["vit_digits"], name="vit", accuracy=None)])
    with pytest.raises(UserError, match="zoo silent states no `accuracy` of vit: add it"):
        search(silent, data, root).whole_network(None, "home_accuracy")


def test_leep_scores_whole_networks_alone_and_none_without_a_classifier_that_was_learnt(
    zoo, data, root, caplog
) -> None:
    skipping = replace(zoo["resnet_digits"], weights=replace(zoo["resnet_digits"].weights, skip=("fc.",)))
    partial = Zoo("partial", [skipping, zoo["vit_digits"]])
    settings = replace(SETTINGS, budget=Budget(), proxy=replace(SETTINGS.proxy, also=("leep",)))
    scored = {entry.candidate.composition: entry for entry in search(partial, data, root, settings).run().candidates}
    whole = {entry.candidate.blocks[0].network: entry for entry in scored.values() if "leep" in entry.scores}
    assert all(entry.candidate.kind == "network" for entry in whole.values())
    assert whole["resnet_digits"].scores["leep"] == -math.inf
    assert whole["vit_digits"].scores["leep"] < 0
    assert "resnet_digits has no classifier that was learnt: its weights leave out fc." in caplog.text
    assert len(scored) > len(whole)


def test_joined_blocks_need_no_adapter() -> None:
    blocks = [BlockSpec("a", (0, 2)), BlockSpec("a", (2, 5)), BlockSpec("b", (3, 6)), BlockSpec("b", (7, 9))]
    assert joined(blocks) == (BlockSpec("a", (0, 5)), BlockSpec("b", (3, 6)), BlockSpec("b", (7, 9)))


def test_wrong_adapter_settings_are_refused() -> None:
    with pytest.raises(UserError, match="kernel_size"):
        AdapterSettings(kernel_size=5)


def test_of_too_many_the_programme_chooses_and_another_budget_asks_no_network_again(zoo, data, root, monkeypatch):
    every = search(zoo, data, root).run()
    settings = replace(SETTINGS, budget=Budget(), proxy=replace(SETTINGS.proxy, max_scored=2))
    few = search(zoo, data, root, settings).run()
    kinds = [entry.candidate.kind for entry in few.candidates]
    assert kinds.count("assembly") == 2
    num_nodes = sum(len(description) - 1 for description in few.descriptions.values())
    assert few.num_fitting == num_nodes + 6
    assert "seams" in few.seconds
    # with K = 2 every assembly has one adapter, and the prediction is its score
    assert few.prediction.regret == 0
    borders = {
        (name, cut) for name, cuts in zip(few.partition.networks, few.partition.cuts, strict=True) for cut in cuts
    }
    for entry in few.candidates:
        last = entry.candidate.blocks[-1]
        if (last.network, last.nodes[1]) in borders:
            assert entry.predicted == pytest.approx(entry.scores["ridge"])
        else:  # no path of the programme
            assert entry.predicted is None
    scores = {entry.candidate.blocks: entry.scores["ridge"] for entry in every.candidates}
    assert all(e.scores["ridge"] == scores.get(e.candidate.blocks, e.scores["ridge"]) for e in few.candidates)

    monkeypatch.setattr(
        "reassembly.scoring.Scorer.path_scores", lambda self, paths: pytest.fail("a seam was scored again")
    )
    other = replace(settings, budget=Budget(max_params=300_000), proxy=replace(settings.proxy, max_scored=1))
    again = search(zoo, data, root, other).run()
    assert sum(entry.candidate.kind == "assembly" for entry in again.candidates) == 1


def test_the_front_is_every_candidate_that_no_other_beats(zoo, data, root):
    settings = replace(SETTINGS, budget=Budget(pareto=True))
    found = search(zoo, data, root, settings).run()
    points = {e.candidate: (e.candidate.num_params, e.candidate.macs, -e.scores["ridge"]) for e in found.candidates}

    def beaten(candidate) -> bool:
        mine = points[candidate]
        return any(p != mine and all(a <= b for a, b in zip(p, mine, strict=True)) for p in points.values())

    front = [entry.candidate for entry, _ in found.front]
    assert set(front) == {candidate for candidate in points if not beaten(candidate)}
    assert front == sorted(front, key=points.__getitem__)
    for entry, blueprint in found.front:
        assert blueprint.blocks == joined(entry.candidate.blocks)
    few = search(zoo, data, root, replace(settings, proxy=replace(SETTINGS.proxy, max_scored=1))).run()
    assert [entry.candidate for entry, _ in few.front] == front  # K = 2: predictions are exact


@pytest.mark.parametrize(
    ("wishes", "kept"),
    [
        (CompositionSettings(required=("vit_digits",)), lambda names: "vit_digits" in names),
        (CompositionSettings(forbidden=("vit_digits",)), lambda names: "vit_digits" not in names),
        (CompositionSettings(max_blocks_per_network=1), lambda names: len(set(names)) == len(names)),
        (CompositionSettings(min_blocks=2), lambda names: len(names) == 2),
        (CompositionSettings(max_blocks=1), lambda names: len(names) == 1),
    ],
    ids=["required", "forbidden", "one block a network", "two blocks", "one block"],
)
@pytest.mark.parametrize("max_scored", [None, 1])
def test_compositions_keep_the_wishes_of_the_user(zoo, data, root, wishes, kept, max_scored):
    settings = replace(SETTINGS, budget=Budget(), proxy=replace(SETTINGS.proxy, max_scored=max_scored))
    every = {entry.candidate.blocks for entry in search(zoo, data, root, settings).run().candidates}
    found = {
        e.candidate.blocks for e in search(zoo, data, root, replace(settings, composition=wishes)).run().candidates
    }
    expected = {blocks for blocks in every if kept([block.network for block in blocks])}
    assert (found == expected) if max_scored is None else (found and all(kept([b.network for b in x]) for x in found))


def test_wishes_that_nothing_keeps_name_each_other(zoo, data, root):
    wishes = CompositionSettings(required=("vit_digits", "regnety_even"), max_blocks=1)
    with pytest.raises(UserError, match=r"no composition keeps .*required=\[vit_digits\] and .*max_blocks=1") as caught:
        search(zoo, data, root, replace(SETTINGS, composition=wishes)).run()
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="nobody"):
        search(zoo, data, root, replace(SETTINGS, composition=CompositionSettings(forbidden=("nobody",)))).run()


def test_a_wish_that_no_budget_meets_is_refused_for_the_number_of_blocks(zoo, data, root):
    wishes = CompositionSettings(required=("vit_digits", "regnety_even", "resnet_digits"))
    with pytest.raises(UserError, match=r"composition\.required asks for 3 blocks .* partition\.num_blocks=2"):
        search(zoo, data, root, replace(SETTINGS, composition=wishes)).run()


def test_a_budget_that_clashes_with_wishes_is_answered_with_the_nearest_one(zoo, data, root):
    wishes = CompositionSettings(required=("vit_digits", "regnety_even"))
    settings = replace(SETTINGS, composition=wishes, budget=Budget(max_params=1000))
    with pytest.raises(UserError, match=r"type budget\.max_params=\d+$") as caught:
        search(zoo, data, root, settings).run()
    limit = int(str(caught.value).rpartition("=")[2])
    found = search(zoo, data, root, replace(settings, budget=Budget(max_params=limit))).run().candidates
    assert min(entry.candidate.num_params for entry in found) == limit
    with pytest.raises(UserError, match="no composition"):
        search(zoo, data, root, replace(settings, budget=Budget(max_params=limit - 1))).run()


def test_every_composition_of_the_front_lies_beside_its_table(zoo, data, root, tmp_path):
    settings = replace(SETTINGS, budget=Budget(pareto=True))
    found, store = search(zoo, data, root, settings).run(), Store(tmp_path / "store")
    for directory in (tmp_path / "drawn", tmp_path / "kept"):
        kept_report(store, "front", directory, lambda place: write_report(found, settings, place), "reassembly")
        with (directory / "front.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(found.front)
        for row, (entry, blueprint) in zip(rows, found.front, strict=True):
            assert read_blueprint(directory / row["blueprint"]) == blueprint
            assert int(row["macs"]) == entry.candidate.macs
