"""Candidates that are of one network: truncated at every node, with own adapters, with a head on all cuts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from datamodules import Digits
from reassembly import latency
from reassembly.network import assemble, assembled_costs
from reassembly.pipeline import Search
from reassembly.settings import (
    Budget,
    CompositionSettings,
    HeadSettings,
    PartitionSettings,
    ProxySettings,
    SearchSettings,
    SimilaritySettings,
)
from zoo.blueprint import BlockSpec, HeadSpec, ReassemblyBlueprint
from zoo.chain.costs import count
from zoo.errors import UserError
from zoo.registry import Zoo, read_zoo
from zoo.storage.store import Store
from zoo.weights import PROJECT_ROOT

SETTINGS = SearchSettings(
    similarity=SimilaritySettings(num_probe_images=40),
    partition=PartitionSettings(num_blocks=2, num_starts=4, max_bound_steps=200),
    budget=Budget(max_params=150_000),
    proxy=ProxySettings(name="params"),
    tuning_mode="freeze",
)


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    embedded = read_zoo(PROJECT_ROOT / "conf" / "zoo" / "embedded.yaml")
    return Zoo("two", [embedded[name] for name in ("resnet_digits", "vit_digits")])


def searched(zoo: Zoo, data: Digits, root: Path, **changes):
    run = Search(zoo, data, replace(SETTINGS, **changes), store=Store(root), seed=0)
    return run, run.run()


def truncations(run: Search, data: Digits) -> dict[tuple[str, int], tuple[int, int]]:
    """Costs of the first m nodes of every network, of recipes without a search."""
    costs = {}
    for name in run.zoo:
        for end in range(1, len(run.chains[name])):
            blocks = (BlockSpec(name, (0, end)),)
            recipe = ReassemblyBlueprint(blocks, (), HeadSpec(classes=data.class_names), {name: "sha256:" + "0" * 64})
            found = assembled_costs(recipe, run.chains)
            costs[name, end] = found.num_params, found.macs
    return costs


def plain_ends(found) -> set[tuple[str, int]]:
    kept = [e.candidate for e in found.candidates if e.candidate.kind != "assembly" and not e.candidate.is_adapted]
    assert len({c.composition for c in kept}) == len(kept)
    return {(c.blocks[0].network, c.blocks[-1].nodes[1]) for c in kept}


@pytest.mark.parametrize(
    ("budget", "wishes", "kept"),
    [
        (Budget(max_params=150_000), CompositionSettings(), lambda name, blocks: True),
        (Budget(min_params=20_000, max_macs=3_000_000), CompositionSettings(), lambda name, blocks: True),
        (Budget(), CompositionSettings(forbidden=("vit_digits",)), lambda name, blocks: name != "vit_digits"),
        (Budget(), CompositionSettings(required=("vit_digits",)), lambda name, blocks: name == "vit_digits"),
        (Budget(), CompositionSettings(max_blocks=1), lambda name, blocks: blocks == 1),
        (Budget(), CompositionSettings(min_blocks=2), lambda name, blocks: blocks == 2),
    ],
    ids=["parameters", "both sides", "forbidden", "required", "one block", "two blocks"],
)
def test_exactly_the_truncations_within_budget_and_wishes_are_candidates(zoo, data, root, budget, wishes, kept):
    run, found = searched(zoo, data, root, budget=budget, composition=wishes)
    middle = {name: cuts[1] for name, cuts in zip(found.partition.networks, found.partition.cuts, strict=True)}
    expected = {
        (name, end)
        for (name, end), costs in truncations(run, data).items()
        if budget.admits(*costs) and kept(name, 1 if end <= middle[name] else 2)
    }
    assert plain_ends(found) == expected


def test_a_budget_below_every_truncation_names_the_least_of_all(zoo, data, root):
    run, _ = searched(zoo, data, root)
    least = min(params for params, _ in truncations(run, data).values())
    with pytest.raises(UserError, match=rf"type budget\.max_params={least}$"):
        searched(zoo, data, root, budget=Budget(max_params=least - 1))
    _, found = searched(zoo, data, root, budget=Budget(max_params=least))
    assert [entry.candidate.num_params for entry in found.candidates] == [least]
    wish = CompositionSettings(required=("vit_digits",))
    of_vit = min(params for (name, _), (params, _) in truncations(run, data).items() if name == "vit_digits")
    with pytest.raises(UserError, match=rf"type budget\.max_params={of_vit}$"):
        searched(zoo, data, root, budget=Budget(max_params=of_vit - 1), composition=wish)


def test_own_adapters_are_for_freeze_tuning_alone_and_counted(zoo, data, root):
    run, found = searched(zoo, data, root, budget=Budget())
    adapted = [entry for entry in found.candidates if entry.candidate.is_adapted]
    assert {entry.candidate.kind for entry in adapted} == {"network", "truncated"}
    for entry in adapted[::3]:
        recipe = run.blueprint(entry, found.descriptions)
        assert {spec.initialisation for spec in recipe.adapters} == {"identity"}
        costs = count(assemble(recipe, run.chains), zoo[recipe.blocks[0].network].input.example())
        assert (costs.num_params, costs.macs) == (entry.candidate.num_params, entry.candidate.macs)
    _, full = searched(zoo, data, root, budget=Budget(), tuning_mode="full")
    assert not any(entry.candidate.is_adapted for entry in full.candidates)
    assert plain_ends(full) == plain_ends(found)


def test_a_head_on_all_cuts_is_charged_to_every_kind(zoo, data, root):
    run, found = searched(zoo, data, root, head=HeadSettings("all_cuts"))
    _, last = searched(zoo, data, root)
    of_last = {entry.candidate.composition: entry.candidate.num_params for entry in last.candidates}
    for entry in found.candidates[::4]:
        recipe = run.blueprint(entry, found.descriptions)
        assert recipe.head.inputs == ("all_cuts" if len(entry.candidate.blocks) > 1 else "last")
        assert recipe.composition == entry.candidate.composition
        costs = count(assemble(recipe, run.chains), zoo[recipe.blocks[0].network].input.example())
        assert (costs.num_params, costs.macs) == (entry.candidate.num_params, entry.candidate.macs)
        inner = sum(run.chains[b.network].signal(b.nodes[1]).channels for b in entry.candidate.blocks[:-1])
        assert entry.candidate.num_params - of_last[entry.candidate.composition] == 10 * inner
    whole = run.whole_network("vit_digits")
    assert (whole.head.inputs, len(whole.blocks), whole.composition) == ("all_cuts", 2, "vit_digits[0:7]")


def test_auto_stands_in_the_recipe_where_the_wider_head_fits_too(zoo, data, root):
    _, plain = searched(zoo, data, root)
    limit = max(e.candidate.num_params for e in plain.candidates if len(e.candidate.blocks) > 1)
    run, found = searched(zoo, data, root, head=HeadSettings("auto"), budget=Budget(max_params=limit))
    seen = set()
    for entry in found.candidates:
        recipe = run.blueprint(entry, found.descriptions)
        inner = sum(run.chains[b.network].signal(b.nodes[1]).channels for b in entry.candidate.blocks[:-1])
        fits = entry.candidate.num_params + 10 * inner <= limit
        assert recipe.head.inputs == ("auto" if fits and inner else "last")
        seen.add((bool(inner), fits))
    assert seen >= {(True, True), (True, False)}


def test_a_limit_on_latency_is_kept_by_what_was_measured(
    zoo: Zoo, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "NUM_REPEATS", 1)
    run, found = searched(zoo, data, tmp_path, budget=Budget(max_latency_ms=1e6))
    times = sorted(entry.candidate.latency_ns for entry in found.candidates)
    blocks, table = found.candidates[0].candidate.pieces, run.latency
    assert times[0] > 0
    assert len(found.latency) == 8
    assert found.latency[0].composition == found.candidates[0].candidate.composition
    assert len(blocks) == 1 or found.candidates[0].candidate.latency_ns > sum(map(table.block, blocks))

    limit = times[len(times) // 2] / 1e6
    _, narrower = searched(zoo, data, tmp_path, budget=Budget(max_latency_ms=limit))
    assert "latency" in narrower.reused  # nothing is measured again, so that both speak of the same times
    kept = {(c.blocks, c.is_adapted): c.latency_ns for c in (entry.candidate for entry in narrower.candidates)}
    every = {(c.blocks, c.is_adapted): c.latency_ns for c in (entry.candidate for entry in found.candidates)}
    assert kept == {key: time for key, time in every.items() if time <= 1e6 * limit}

    with pytest.raises(UserError, match=r"nearest is .* ms; type budget.max_latency_ms=") as error:
        searched(zoo, data, tmp_path, budget=Budget(max_latency_ms=times[0] / 2e6))
    told = float(str(error.value).rpartition("=")[2])
    assert times[0] / 1e6 <= told < times[0] / 1e6 + 1e-3
    assert len(searched(zoo, data, tmp_path, budget=Budget(max_latency_ms=told))[1].candidates) >= 1
