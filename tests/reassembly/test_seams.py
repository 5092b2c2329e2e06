"""The additive prediction against sums by hand and the exact scores."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import kendalltau

from reassembly.assembly import Candidate, cost_table, partition_blocks
from reassembly.candidates import Question, list_admitted, promising
from reassembly.seams import Prediction, additive_values, measure_prediction, predict, seam_paths
from reassembly.settings import Budget
from zoo.blueprint import BlockSpec
from zoo.chain import Costs

CUTS = {"plain": (0, 3, 6, 9), "vit": (0, 2, 3, 5), "resnet": (0, 1, 3, 4)}


@pytest.fixture(scope="module")
def question() -> Question:
    table = cost_table(partition_blocks(CUTS), lambda block: Costs(1, 1), lambda a, b: Costs(), lambda last: Costs())
    return Question(table, Budget(), ())


@pytest.fixture(scope="module")
def candidates(question: Question) -> list[Candidate]:
    return list_admitted(question, None).candidates


def every_seam(question: Question, score_of) -> dict:
    """The scores of the paths that the prediction adds up."""
    paths = [path for block in question.table.blocks[0] for path in seam_paths(question.table.blocks, block.network)]
    assert len(paths) == len(set(paths)) == 9 + 2 * 6  # no path twice, none of three blocks
    return {path: score_of(path) for path in paths}


def test_the_prediction_adds_up_what_each_seam_changes(question, candidates):
    generator = torch.Generator().manual_seed(0)
    drawn = every_seam(question, lambda path: torch.rand((), generator=generator).item())

    def up_to(block):
        return BlockSpec(block.network, (0, block.nodes[1]))

    def predicted(candidate):
        first, *others = candidate.blocks
        value, before = drawn[(up_to(first),)], first
        for block in others:
            path = (up_to(block),) if block.network == before.network else (up_to(before), block)
            value, before = value + drawn[path] - drawn[(up_to(before),)], block
        return value

    kept, values = promising(question, additive_values(question.table.blocks, drawn), 5)
    assert values == pytest.approx([predicted(candidate) for candidate in kept])
    assert predict((c.blocks for c in kept), drawn) == pytest.approx(values)
    assert [c for c in kept if c.kind != "assembly"] == [c for c in candidates if c.kind != "assembly"]
    assemblies = [c for c in candidates if c.kind == "assembly"]
    dropped = [c for c in assemblies if c not in kept]
    assert len(dropped) == len(assemblies) - 5
    assert min(predicted(c) for c in assemblies if c in kept) >= max(map(predicted, dropped))
    apart, _ = promising(question, additive_values(question.table.blocks, drawn), 5, 2)
    for a, b in itertools.combinations([c for c in apart if c.kind == "assembly"], 2):
        assert sum(x != y for x, y in itertools.zip_longest(a.blocks, b.blocks)) >= 2


def test_an_endless_score_of_a_beginning_neither_favours_nor_excludes_what_follows(question):
    """NASWOT before the first activation is -inf: what follows it is then predicted by its own score."""
    endless = "plain"

    def score_of(path):
        return -math.inf if [b.network for b in path] == [endless] else len(path[-1].network)

    value = additive_values(question.table.blocks, every_seam(question, score_of))
    predicted = dict(zip(*promising(question, value, 100), strict=True))
    behind = {c: v for c, v in predicted.items() if c.kind == "assembly" and c.blocks[0].network == endless}
    assert {c.blocks[1].network for c in behind} == {"resnet", "vit"}
    assert all(value == len(c.blocks[-1].network) for c, value in behind.items())


def test_the_prediction_is_measured_against_exact_scores():
    found = measure_prediction([3.0, 2.0, 1.0, -math.inf, 5.0], [0.5, 0.9, 0.1, 0.7, -math.inf])
    assert found == Prediction(tau=pytest.approx(1 / 3), regret=pytest.approx(0.4), num_compared=3)
    assert measure_prediction([1.0], [1.0]) is None
    ranks = torch.randint(0, 9, (2, 60), generator=torch.Generator().manual_seed(0)).double()  # with ties
    assert measure_prediction(*ranks.tolist()).tau == pytest.approx(kendalltau(*ranks).statistic)
    assert measure_prediction([1.0, 1.0], [1.0, 2.0]).tau is None
