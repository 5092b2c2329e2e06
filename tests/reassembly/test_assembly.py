"""Enumeration and budgets against itertools on fake integer costs."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from reassembly import candidates as listing
from reassembly import enumeration
from reassembly.assembly import Candidate, CostTable, cost_table, partition_blocks
from reassembly.candidates import Question, list_admitted
from reassembly.settings import Budget
from zoo.blueprint import BlockSpec
from zoo.chain import Costs
from zoo.errors import UserError


def list_candidates(table: CostTable, budget: Budget) -> list[Candidate]:
    """All compositions that fit the budget."""
    return list_admitted(Question(table, budget, ()), None).candidates


def fake_table(num_networks: int, num_stages: int, seed: int = 0, largest: int = 1000, exhaustive: bool = True):
    """A cost table of random integers, and every path with its costs added up by hand."""
    rng = np.random.default_rng(seed)
    names = [f"net{i}" for i in range(num_networks)]
    cuts = {name: (0, *np.sort(rng.choice(np.arange(1, 20), num_stages, replace=False)).tolist()) for name in names}
    memory: dict[object, Costs] = {}

    def drawn(*key) -> Costs:
        return memory.setdefault(key, Costs(*map(int, rng.integers(1, largest, 3))))

    blocks = partition_blocks(cuts)
    table = cost_table(
        blocks, lambda b: drawn("block", b), lambda a, b: drawn("adapter", a, b), lambda b: drawn("end", b)
    )

    def by_hand(path: tuple[BlockSpec, ...]) -> tuple[int, int, int]:
        parts = [drawn("block", b) for b in path] + [drawn("end", path[-1])]
        parts += [drawn("adapter", a, b) for a, b in pairwise(path) if a.network != b.network]
        return tuple(sum(getattr(part, cost) for part in parts) for cost in ("num_params", "macs", "latency_ns"))

    every = [path for m in range(1, num_stages + 1) for path in product(*blocks[:m])] if exhaustive else []
    return table, {path: by_hand(path) for path in every}


def inside(budget: Budget, costs: tuple[int, int, int]) -> bool:
    low, high = budget.bounds()
    return all(low[c] <= costs[c] <= high[c] for c in (0, 1, 2))


BUDGETS = [
    Budget(),
    Budget(max_params=2500),
    Budget(min_params=3000),
    Budget(min_params=2000, max_params=2600, min_macs=1500, max_macs=2400),
    Budget(min_macs=3500, max_params=2500),
    Budget(max_latency_ms=0.0025),
    Budget(max_latency_ms=0.0022, max_params=2600, min_macs=1500),
]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize(("num_networks", "num_stages"), [(1, 1), (1, 3), (4, 1), (3, 4), (5, 3)])
def test_candidates_are_exactly_the_paths_inside_the_budget(num_networks, num_stages, budget):
    table, costs = fake_table(num_networks, num_stages)
    expected = {path: cost for path, cost in costs.items() if inside(budget, cost)}
    if not expected:
        with pytest.raises(UserError, match="no composition fits"):
            list_candidates(table, budget)
        return
    found = list_candidates(table, budget)
    assert [(c.blocks, c.costs) for c in found] == list(expected.items())


def test_small_chunks_give_the_same_candidates_in_the_same_order(monkeypatch):
    table, _ = fake_table(5, 4)
    whole = list_candidates(table, BUDGETS[3])
    monkeypatch.setattr(enumeration, "CHUNK", 7)
    assert list_candidates(table, BUDGETS[3]) == whole


def test_kinds_tell_zoo_networks_and_truncations_from_assemblies():
    table, _ = fake_table(3, 3)
    kinds = [c.kind for c in list_candidates(table, Budget())]
    assert {kind: kinds.count(kind) for kind in kinds} == {"network": 3, "truncated": 6, "assembly": 30}
    (only,) = list_candidates(fake_table(1, 1)[0], Budget())
    assert only.kind == "network"


def test_a_tight_budget_on_a_huge_zoo_is_enumerated_by_pruning():
    costs = fake_table(30, 8, exhaustive=False)[0].costs  # 30^8 paths
    least = (costs.to_go(8, np.min)[0] + costs.unary[:, 0]).min(1)
    high = np.array([least[0] + 20, 10**9, 10**9])
    (paths,) = enumeration.feasible_paths(costs, np.zeros(3, np.int64), high, 8)
    assert paths.costs[0].min() == least[0]
    assert [tuple(costs.total(path)) for path in paths.items] == [tuple(cost) for cost in paths.costs.T]


def test_too_many_feasible_compositions_are_not_listed(monkeypatch):
    monkeypatch.setattr(listing, "MAX_LISTED", 10)
    question = Question(fake_table(4, 3)[0], Budget(), ())
    with pytest.raises(UserError, match=r"more than 10 compositions fit .*budget\.max_macs"):
        list_admitted(question, None)
    found = list_admitted(question, 1000)
    assert found.candidates is None
    assert found.num_fitting == 10


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "budget",
    [
        Budget(max_params=5),
        Budget(min_params=10**9),
        Budget(max_params=5, max_macs=3),
        Budget(min_params=10**9, max_macs=3),
        Budget(max_params=1400, max_macs=700),
        Budget(max_params=1400, min_macs=4000),
        Budget(min_params=2000, max_params=2001, min_macs=2000, max_macs=2001),
    ],
    ids=str,
)
def test_an_infeasible_budget_names_the_nearest_that_fits(budget, seed):
    table, costs = fake_table(4, 3, seed)
    if any(inside(budget, cost) for cost in costs.values()):
        assert list_candidates(table, budget)
        return
    with pytest.raises(UserError) as caught:
        list_candidates(table, budget)
    message = str(caught.value)
    assert "\n" not in message
    ways = [way.split() for way in message.split("; type ")[1].split(" or ")]
    for way in ways:
        changed = {key.removeprefix("budget."): int(value) for key, value in (pair.split("=") for pair in way)}
        assert list_candidates(table, Budget(**{**budget.limits(), **changed}))
        if len(way) > 1:
            continue
        ((name, value),) = changed.items()
        unit = name.endswith("macs")
        others = budget.without([name])
        reachable = [cost[unit] for cost in costs.values() if inside(others, cost)]
        assert value == (min(reachable) if name.startswith("max") else max(reachable))
    if len(ways[0]) == 2:  # no single limit is to blame
        for name in budget.limits():
            assert not any(inside(budget.without([name]), cost) for cost in costs.values())
        names = [pair.removeprefix("budget.").split("=")[0] for pair in ways[0]]

        def excess(path_costs, names):
            limits = budget.limits()
            return sum(abs(path_costs[name.endswith("macs")] / limits[name] - 1) for name in names)

        unit_limits = [[name for name in budget.limits() if name.endswith(unit)] for unit in ("params", "macs")]
        least = min(
            excess(cost, pair)
            for pair in product(*unit_limits)
            for cost in costs.values()
            if inside(budget.without(pair), cost)
        )
        chosen = {pair.removeprefix("budget.").split("=")[0]: int(pair.split("=")[1]) for pair in ways[0]}
        assert sum(abs(chosen[n] / budget.limits()[n] - 1) for n in names) == pytest.approx(least)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            {"min_params": 5, "max_params": 4},
            r"budget\.min_params=5 is above budget\.max_params=4.*budget\.min_params=4",
        ),
        ({"min_macs": 5, "max_macs": 4}, r"budget\.min_macs=5 is above budget\.max_macs=4"),
        ({"max_params": -1}, r"budget\.max_params=-1 is out of range; allowed: at least 0"),
        ({"max_macs": 1.5}, r"budget\.max_macs=1\.5"),
        ({"max_macs": True}, r"budget\.max_macs=true is not a whole number"),
        ({"max_macs": "1e6"}, r"budget\.max_macs=1e6"),
    ],
)
def test_a_wrong_budget_is_refused_in_one_line(limits, message):
    with pytest.raises(UserError, match=message) as caught:
        Budget(**limits)
    assert "\n" not in str(caught.value)
