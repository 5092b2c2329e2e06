"""The partition against full enumeration, its bound against the optimum, and what every partition promises."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from reassembly.partition import Partition, clock, find_partition
from reassembly.partition.bound import certify
from reassembly.partition.problem import PartitionProblem
from reassembly.settings import PartitionSettings
from zoo.errors import UserError


def instance(seed: int, lengths: tuple[int, ...], symmetric: bool = True):
    """A random similarity of the stems and body nodes of networks with these body lengths, numbered in any order."""
    generator = np.random.default_rng(seed)
    total = sum(lengths) + len(lengths)
    similarity = generator.random((total, total))
    if symmetric:
        similarity = (similarity + similarity.T) / 2
        np.fill_diagonal(similarity, 1.0)
    numbers = iter(generator.permutation(total).tolist())
    features = [[next(numbers) for _ in range(length + 1)] for length in lengths]
    return similarity, features, [f"net{i}" for i in range(len(lengths))]


def size_limit(length: int, num_blocks: int, size_slack: float) -> int:
    return max(math.floor((1 + size_slack) * length / num_blocks), math.ceil(length / num_blocks))


def enumerate_best(similarity, features, num_blocks: int, size_slack: float, permuted: bool) -> float:
    """The best J over all splits, all assignments to sets and all centres, by trying every one."""

    def splits(length):
        for inner in itertools.combinations(range(1, length), num_blocks - 1):
            points = (0, *inner, length)
            if max(b - a for a, b in itertools.pairwise(points)) <= size_limit(length, num_blocks, size_slack):
                yield tuple(itertools.pairwise(points))

    orders = list(itertools.permutations(range(num_blocks))) if permuted else [tuple(range(num_blocks))]
    choices = []
    for f in features:
        choices.append([])
        for blocks in splits(len(f) - 1):
            ends = [(f[a], f[b]) for a, b in blocks]
            choices[-1] += [[ends[k] for k in order] for order in orders]
    best = -np.inf
    for sets in itertools.product(*choices):
        total = 0.0
        for k in range(num_blocks):
            members = [blocks[k] for blocks in sets]
            total += max(sum(similarity[i, ci] + similarity[o, co] for i, o in members) for ci, co in members)
        best = max(best, total)
    return best


def check_consistent(partition: Partition, similarity, features) -> None:
    """Cuts, sets, centres, similarities and J belong together and keep to the size limit."""
    settings, num_blocks = partition.settings, partition.num_blocks
    total = 0.0

    def ends(network, block):
        cuts = partition.cuts[network]
        start = cuts[block] - 1 if block else 0
        return features[network][start], features[network][cuts[block + 1] - 1]

    for k, (network, block) in enumerate(partition.centres):
        assert partition.sets[network][block] == k
    for network, cuts in enumerate(partition.cuts):
        length = len(features[network]) - 1
        assert len(cuts) == num_blocks + 1
        assert cuts[0] == 0
        assert cuts[-1] == length + 1
        assert sorted(partition.sets[network]) == list(range(num_blocks))
        sizes = np.diff([1, *cuts[1:]])
        assert sizes.min() >= 1
        assert sizes.max() <= size_limit(length, num_blocks, settings.size_slack)
        for block, k in enumerate(partition.sets[network]):
            (i, o), (ci, co) = ends(network, block), ends(*partition.centres[k])
            value = similarity[i, ci] + similarity[o, co]
            assert partition.block_similarities[network][block] == pytest.approx(value)
            total += value
    assert partition.objective == pytest.approx(total)
    assert partition.upper_bound >= partition.objective


SHAPES = [((4, 5, 6), 2), ((5, 5, 4), 3), ((3, 6, 5), 3), ((6, 7), 4), ((8,), 3), ((4, 4, 4, 4), 2), ((3, 4, 3), 3)]


@pytest.mark.parametrize("size_slack", [0.2, 0.5, 2.0])
@pytest.mark.parametrize(("lengths", "num_blocks"), SHAPES)
def test_stage_mode_is_the_enumerated_optimum(lengths, num_blocks, size_slack):
    for seed in range(4):
        similarity, features, names = instance(seed, lengths, symmetric=seed % 2 == 0)
        settings = PartitionSettings(num_blocks=num_blocks, size_slack=size_slack)
        partition = find_partition(similarity, features, names, settings)
        check_consistent(partition, similarity, features)
        assert partition.sets == (tuple(range(num_blocks)),) * len(lengths)
        assert partition.proven
        best = enumerate_best(similarity, features, num_blocks, size_slack, permuted=False)
        assert partition.objective == pytest.approx(best, rel=2e-6)
        assert partition.upper_bound >= best - 1e-9


@pytest.mark.parametrize(("lengths", "num_blocks"), [((4, 5, 6), 2), ((3, 4, 3), 3), ((5, 4), 3), ((5, 5), 4)])
def test_permutation_mode_is_the_enumerated_optimum(lengths, num_blocks):
    for seed in range(4):
        similarity, features, names = instance(seed, lengths, symmetric=seed % 2 == 0)
        settings = PartitionSettings(num_blocks=num_blocks, mode="permutation")
        partition = find_partition(similarity, features, names, settings)
        check_consistent(partition, similarity, features)
        best = enumerate_best(similarity, features, num_blocks, 0.5, permuted=True)
        assert partition.upper_bound >= best - 1e-9
        assert partition.proven
        assert partition.objective == pytest.approx(best, rel=2e-6)


@pytest.mark.parametrize("mode", ["stage", "permutation"])
def test_every_budget_of_steps_gives_a_valid_bound(mode):
    similarity, features, names = instance(1, (4, 5, 4))
    best = enumerate_best(similarity, features, 3, 0.5, permuted=mode == "permutation")
    for max_bound_steps in (0, 1, 2, 5, 20):
        settings = PartitionSettings(num_blocks=3, mode=mode, num_starts=1, max_bound_steps=max_bound_steps)
        partition = find_partition(similarity, features, names, settings)
        assert partition.objective <= best + 1e-9 <= partition.upper_bound + 2e-9
        assert not partition.proven or partition.objective == pytest.approx(best, rel=2e-6)


@pytest.mark.parametrize("permuted", [False, True])
def test_branch_and_bound_finds_the_optimum_from_a_bad_start(permuted):
    for seed in range(6):
        similarity, features, _ = instance(seed, (5, 6, 5), symmetric=False)
        problem = PartitionProblem(similarity, features, 2, 0.5, permuted)
        pairs = itertools.product(range(len(problem.sets[0])), range(len(problem.sets[1])))
        worst = min((p for p in pairs if np.isfinite(problem.objective(p))), key=problem.objective)
        centres, upper_bound, proven = certify(problem, list(worst), max_steps=2000)
        best = enumerate_best(similarity, features, 2, 0.5, permuted)
        assert proven
        assert problem.objective(centres) == pytest.approx(best, rel=2e-6)
        assert upper_bound >= best - 1e-9


def enumerate_nearest(similarity, features, num_blocks: int, size_slack: float) -> float:
    """The best J over all splits and all choices of K of their blocks as centres."""
    choices = []
    for f in features:
        limit = size_limit(len(f) - 1, num_blocks, size_slack)
        points = ((0, *inner, len(f) - 1) for inner in itertools.combinations(range(1, len(f) - 1), num_blocks - 1))
        splits = [list(itertools.pairwise(p)) for p in points if max(b - a for a, b in itertools.pairwise(p)) <= limit]
        choices.append([[(f[a], f[b]) for a, b in split] for split in splits])
    best = -np.inf
    for chosen in itertools.product(*choices):
        blocks = [block for split in chosen for block in split]
        ends = np.array(blocks).T
        values = similarity[np.ix_(ends[0], ends[0])] + similarity[np.ix_(ends[1], ends[1])]
        for centres in itertools.combinations(range(len(blocks)), num_blocks):
            nearest = values[:, list(centres)].max(axis=1)
            nearest[list(centres)] = values[list(centres), list(centres)]
            best = max(best, float(nearest.sum()))
    return best


@pytest.mark.parametrize(
    ("lengths", "num_blocks", "symmetric"),
    [((3, 4), 2, True), ((4, 3, 5), 2, True), ((3, 4, 4), 3, False), ((5,), 3, True), ((4, 4), 1, True)],
)
def test_nearest_mode_is_the_enumerated_optimum_within_its_bound(lengths, num_blocks, symmetric):
    for seed in range(4):
        similarity, features, names = instance(seed, lengths, symmetric)
        settings = PartitionSettings(num_blocks=num_blocks, mode="nearest", num_starts=30)
        found = find_partition(similarity, features, names, settings)
        optimum = enumerate_nearest(similarity, features, num_blocks, settings.size_slack)
        assert found.objective == pytest.approx(optimum)
        assert found.upper_bound >= optimum - 1e-9
        assert found.upper_bound <= 1.2 * optimum
        keeps_promises(found, similarity, features)


def keeps_promises(found: Partition, similarity, features) -> None:
    """Every block is in the set of its nearest centre, centres in their own, and J is the sum that was said."""
    total = 0.0

    def value(block, centre) -> float:
        ends = [
            [features[i][0 if k == 0 else found.cuts[i][k] - 1], features[i][found.cuts[i][k + 1] - 1]]
            for i, k in (block, centre)
        ]
        return similarity[ends[0][0], ends[1][0]] + similarity[ends[0][1], ends[1][1]]

    for i, sets in enumerate(found.sets):
        assert (found.cuts[i][0], found.cuts[i][-1]) == (0, len(features[i]))
        for b, k in enumerate(sets):
            values = [value((i, b), centre) for centre in found.centres]
            own = found.centres.index((i, b)) if (i, b) in found.centres else int(np.argmax(values))
            assert k == own or values[k] == pytest.approx(values[own])
            total += values[k]
    assert total == pytest.approx(found.objective)


def test_sets_of_the_nearest_mode_may_hold_several_blocks_of_a_network_and_none_of_another():
    features = [list(range(i, i + 7)) for i in (0, 7, 14)]
    network = np.repeat(np.arange(3), 7)
    similarity = np.where(network[:, None] == network, 0.9, 0.1)
    np.fill_diagonal(similarity, 1.0)
    names, settings = ["a", "b", "c"], PartitionSettings(num_blocks=3)
    found = find_partition(similarity, features, names, replace(settings, mode="nearest"))
    assert sorted(found.blocks_of_set(k) for k in range(3)) == [tuple((i, b) for b in range(3)) for i in range(3)]
    assert found.proven
    assert found.objective > 1.5 * find_partition(similarity, features, names, settings).objective


@pytest.mark.parametrize("mode", ["stage", "nearest"])
def test_the_published_way_keeps_the_size_limit_and_the_bound_and_is_never_better(mode):
    for seed in range(3):
        similarity, features, names = instance(seed, (7, 6, 8, 5))
        certified = PartitionSettings(num_blocks=3, mode=mode)
        ours = find_partition(similarity, features, names, certified)
        theirs = find_partition(similarity, features, names, replace(certified, method="published", num_starts=5))
        assert theirs.objective <= ours.objective + 1e-9
        assert theirs.upper_bound >= ours.objective - 1e-9
        assert theirs == find_partition(similarity, features, names, theirs.settings)
        for cuts, f in zip(theirs.cuts, features, strict=True):
            limit = size_limit(len(f) - 1, 3, certified.size_slack)
            assert all(1 <= e - s <= limit + (s == 0) for s, e in itertools.pairwise(cuts))
        if mode == "nearest":
            keeps_promises(theirs, similarity, features)


@pytest.mark.parametrize("mode", ["stage", "nearest", "permutation"])
def test_a_time_limit_ends_starts_and_bound_with_a_valid_answer(mode, monkeypatch):
    similarity, features, names = instance(0, (7, 6, 8, 5))
    settings = PartitionSettings(num_blocks=3, mode=mode)
    whole = find_partition(similarity, features, names, settings)
    ticks = itertools.count()
    monkeypatch.setattr(clock.time, "monotonic", lambda: float(next(ticks)))
    found = find_partition(similarity, features, names, replace(settings, time_limit=3.0))
    assert next(ticks) < 12  # it was asked a few times and ended
    assert found.objective <= whole.upper_bound + 1e-9
    assert found.upper_bound >= whole.objective - 1e-9


def test_permutation_is_at_least_as_good_as_stage_and_stage_as_even():
    similarity, features, names = instance(5, (6, 8, 5, 9))
    values = {
        mode: find_partition(similarity, features, names, PartitionSettings(num_blocks=3, mode=mode)).objective
        for mode in ("even", "stage", "permutation")
    }
    assert values["even"] < values["stage"] <= values["permutation"] + 1e-9


def test_even_blocks_differ_by_one_node_and_have_the_best_centres():
    similarity, features, names = instance(6, (7, 9, 4))
    partition = find_partition(similarity, features, names, PartitionSettings(num_blocks=3, mode="even"))
    check_consistent(partition, similarity, features)
    assert partition.proven
    for network, cuts in enumerate(partition.cuts):
        sizes = np.diff([1, *cuts[1:]])
        assert sizes.max() - sizes.min() <= 1, network
    blocks = [
        [(f[max(a - 1, 0)], f[b - 1]) for a, b in itertools.pairwise(c)]
        for f, c in zip(features, partition.cuts, strict=True)
    ]
    best = 0.0
    for k in range(3):
        members = [ends[k] for ends in blocks]
        best += max(sum(similarity[i, ci] + similarity[o, co] for i, o in members) for ci, co in members)
    assert partition.objective == pytest.approx(best)


@pytest.mark.parametrize("mode", ["stage", "permutation", "even"])
@pytest.mark.parametrize(("lengths", "num_blocks"), [((5,), 1), ((5,), 5), ((3, 3), 3), ((1, 4), 1), ((6,), 4)])
def test_smallest_zoos(mode, lengths, num_blocks):
    similarity, features, names = instance(7, lengths)
    settings = PartitionSettings(num_blocks=num_blocks, mode=mode)
    partition = find_partition(similarity, features, names, settings)
    check_consistent(partition, similarity, features)
    assert partition.proven


def test_many_blocks():
    similarity, features, names = instance(14, (26, 24))
    partition = find_partition(similarity, features, names, PartitionSettings(num_blocks=20, num_starts=2))
    check_consistent(partition, similarity, features)


def test_a_single_network_is_split_evenly():
    similarity, features, names = instance(8, (8,))
    assert find_partition(similarity, features, names).cuts == ((0, 3, 5, 7, 9),)


def test_equal_networks_get_equal_splits():
    similarity, features, _ = instance(9, (9,))
    partition = find_partition(similarity, features * 3, ["a", "b", "c"], PartitionSettings(num_blocks=3))
    assert partition.objective == pytest.approx(18.0)
    assert len(set(partition.cuts)) == 1
    assert partition.proven


def test_same_arguments_same_partition():
    similarity, features, names = instance(10, (9, 8, 10, 7))
    settings = PartitionSettings(num_blocks=4, num_starts=5, max_bound_steps=50)
    first = find_partition(similarity, features, names, settings, seed=3)
    np.random.default_rng(0).random(7)
    assert find_partition(similarity.copy(), [list(f) for f in features], names, settings, seed=3) == first


def test_blocks_of_a_set_are_one_per_network():
    similarity, features, names = instance(11, (5, 6, 4))
    partition = find_partition(similarity, features, names, PartitionSettings(num_blocks=3, mode="permutation"))
    for k in range(3):
        members = partition.blocks_of_set(k)
        assert [network for network, _ in members] == [0, 1, 2]
        assert partition.centres[k] in members


def test_too_short_a_network_is_named_with_the_override():
    similarity, features, names = instance(12, (5, 3))
    with pytest.raises(UserError, match=r"network 'net1' has 3 nodes .* type partition\.num_blocks=3, or leave it out"):
        find_partition(similarity, features, names, PartitionSettings(num_blocks=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "random"}, r"partition\.mode=random is unknown; allowed are stage, permutation, nearest, even"),
        ({"num_blocks": 0}, r"partition\.num_blocks=0 is out of range; allowed: at least 1"),
        ({"size_slack": -0.1}, r"partition\.size_slack=-0\.1 is out of range"),
        ({"num_starts": 0}, r"partition\.num_starts=0 is out of range"),
        ({"time_limit": 0.0}, r"partition\.time_limit=0\.0 is out of range"),
        ({"method": "published", "mode": "even"}, r"published with partition\.mode=even: .* type one of them"),
        ({"num_blocks": 9, "mode": "permutation"}, r"partition\.num_blocks=9 .*partition\.num_blocks=8 or less"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PartitionSettings(**settings)


def test_similarity_that_is_not_finite_is_refused():
    similarity, features, names = instance(13, (5, 6))
    similarity[2, 3] = np.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        find_partition(similarity, features, names)
