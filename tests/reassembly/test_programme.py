"""The 0-1 programme: both solvers, diverse solutions, clashes and fronts against plain enumeration."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from reassembly.enumeration import PathCosts
from reassembly.programme import (
    UNBOUNDED,
    Limit,
    Programme,
    best_paths,
    clashing_limits,
    diverse_paths,
    labels,
    pareto_paths,
)
from reassembly.programme.front import undominated
from reassembly.programme.highs import solve_milp

NAMES = ("min_params", "min_macs", "max_params", "max_macs")


def drawn(num_items: int, num_stages: int, seed: int, largest: int = 1000, forbidden: float = 0.0):
    """Random values and two random costs; a share of the values is ``-inf``."""
    rng = np.random.default_rng(seed)
    shapes = (num_stages, num_items), (num_stages - 1, num_items, num_items), (num_stages, num_items)
    costs = [rng.integers(1, largest, (2, *shape)) for shape in shapes]
    values = [rng.normal(size=(1, *shape)) for shape in shapes]
    for part in values:
        part[rng.random(part.shape) < forbidden] = -np.inf
    return PathCosts(*values), PathCosts(*costs)


def small(seed: int) -> Programme:
    """A programme of every kind there is: tight and open limits, lower ones, counts, forbidden seams."""
    rng = np.random.default_rng(seed + 10_000)
    num_items, num_stages = int(rng.integers(1, 6)), int(rng.integers(1, 5))
    value, costs = drawn(num_items, num_stages, seed, forbidden=0.15 * (seed % 3 == 0))
    high = rng.integers(200, 4000, 2)
    low = np.minimum(high, rng.integers(0, 2500, 2)) if seed % 2 else np.zeros(2, np.int64)
    if seed % 5 == 0:
        high[1] = UNBOUNDED
    first = np.zeros((num_stages, num_items), np.int64)
    first[:, 0] = 1
    limits = {0: (Limit("first item", first, low=1),), 1: (Limit("length", np.ones_like(first), 2, 3),)}
    return Programme(value, costs, low, high, limits.get(seed % 4, ()))


def enumerated(programme: Programme) -> list[tuple[int, ...]]:
    """Every admitted path, best first."""
    stages, items = programme.costs.num_stages, range(programme.costs.num_items)
    paths = [path for m in range(1, stages + 1) for path in product(items, repeat=m)]
    return sorted(filter(programme.admits, paths), key=lambda path: -programme.value_of(path))


def difference(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    length = max(len(a), len(b))
    return sum(x != y for x, y in zip(a + (-1,) * (length - len(a)), b + (-1,) * (length - len(b)), strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_both_solvers_find_what_enumeration_finds(seed):
    programme = small(seed)
    expected = enumerated(programme)
    found = best_paths(programme, 7)
    assert [solution.path for solution in found] == expected[:7]
    for solution in found:
        assert solution.costs == tuple(programme.costs.total(solution.path))
        assert solution.value == pytest.approx(programme.value_of(solution.path), abs=1e-12)
    exact = solve_milp(programme)
    assert (exact is None) == (not expected)
    if exact is not None:
        assert exact.path == expected[0]
        assert exact.upper_bound >= exact.value
        assert exact.gap < 1e-5


@pytest.mark.parametrize("seed", range(60))
def test_diverse_paths_are_the_best_that_differ_enough_from_all_before(seed):
    programme = small(seed)
    left, expected = enumerated(programme), []
    while left and len(expected) < 4:
        expected.append(left[0])
        left = [path for path in left if difference(path, expected[-1]) >= 2]
    assert [solution.path for solution in diverse_paths(programme, 4, 2)] == expected


@pytest.mark.parametrize("seed", range(60))
def test_the_front_is_what_no_other_path_beats(seed):
    programme = small(seed)
    points = {
        path: (*programme.costs.total(path).tolist(), -programme.value_of(path)) for path in enumerated(programme)
    }
    expected = [
        point
        for point in points.values()
        if not any(
            other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points.values()
        )
    ]
    found = pareto_paths(programme)
    assert all(solution.path in points for solution in found)
    np.testing.assert_allclose([points[s.path] for s in found], sorted(expected), atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_clash_is_the_smallest_set_of_limits_that_no_path_keeps(seed):
    rng = np.random.default_rng(seed)
    value, costs = drawn(4, 3, seed)
    low, high = rng.integers(2500, 4500, 2), rng.integers(300, 2000, 2)
    weights = np.zeros((3, 4), np.int64)
    weights[:, 1] = 1
    programme = Programme(value, costs, low, high, (Limit("net1", weights, low=1),))

    def feasible(names) -> bool:
        kept = Programme(
            value,
            costs,
            np.where([name in names for name in NAMES[:2]], low, 0),
            np.where([name in names for name in NAMES[2:]], high, UNBOUNDED),
            programme.limits if "net1" in names else (),
        )
        return bool(enumerated(kept))

    every = (*NAMES, "net1")
    sizes = [size for size in range(6) if not all(feasible(names) for names in combinations(every, size))]
    found = clashing_limits(programme, NAMES)
    assert len(found) == (sizes[0] if sizes else 0)
    assert not sizes or not feasible(found)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("largest", [4, 1000])
def test_undominated_points_are_those_of_the_definition(columns, largest):
    rng = np.random.default_rng(columns)
    for num_points in (0, 1, 40, 300):
        points = rng.integers(0, largest, (num_points, columns))
        expected = []
        for i, point in enumerate(points):
            beaten = (points <= point).all(1) & ((points < point).any(1) | (np.arange(num_points) < i))
            if not beaten.any():
                expected.append(i)
        assert undominated(points).tolist() == expected


@pytest.mark.parametrize(("num_items", "num_stages"), [(60, 4), (30, 6), (300, 4)])
def test_both_solvers_agree_where_nobody_can_enumerate(num_items, num_stages):
    value, costs = drawn(num_items, num_stages, 0, largest=10**6)
    high = np.array([num_stages * 450_000, num_stages * 430_000])
    programme = Programme(value, costs, np.array([0, high[1] // 2]), high)
    best, exact = best_paths(programme, 1000), solve_milp(programme)
    assert best[0].path == exact.path
    assert exact.gap < 1e-5
    assert all(programme.admits(solution.path) for solution in best)
    assert len({solution.path for solution in best}) == len(best) >= 700
    chosen = [solution.path for solution in diverse_paths(programme, 5, 3)]
    assert min(difference(a, b) for a, b in combinations(chosen, 2)) >= 3


def test_a_million_ties_are_not_walked():
    zeros = PathCosts(np.zeros((1, 5, 60)), np.zeros((1, 4, 60, 60)), np.zeros((1, 5, 60)))
    _, costs = drawn(60, 5, 0)
    programme = Programme(zeros, costs, np.zeros(2, np.int64), np.array([3000, 3000]))
    found = best_paths(programme, 50)
    assert len({solution.path for solution in found}) == 50
    assert all(programme.admits(solution.path) and solution.value == 0 for solution in found)


def test_costs_of_imagenet_size_keep_their_last_digit():
    """A limit one below the only path's cost refuses it, one at its cost admits it: HiGHS computes in floats."""
    value, costs = drawn(3, 2, 0, largest=10**12)
    best = max(enumerated(Programme(value, costs, np.zeros(2, np.int64), np.full(2, UNBOUNDED))), key=len)
    exactly = costs.total(best)
    for high, admitted in ((exactly, True), (exactly - [0, 1], False)):
        programme = Programme(value, costs, np.zeros(2, np.int64), high)
        assert (best in [solution.path for solution in best_paths(programme, 100)]) == admitted
        found = solve_milp(programme)
        assert found is None or programme.admits(found.path)


def test_diverse_paths_are_the_same_however_many_are_looked_through(monkeypatch):
    value, costs = drawn(12, 4, 3)
    programme = Programme(value, costs, np.zeros(2, np.int64), np.array([3000, 3000]))
    expected = [solution.path for solution in diverse_paths(programme, 12, 3)]
    assert len(expected) == 12
    monkeypatch.setattr(labels, "MAX_BATCH", 0)  # every one by its own programme, with a cut for each before
    assert [solution.path for solution in diverse_paths(programme, 12, 3)] == expected
