"""The programme solved by label setting: the m best paths, diverse ones, and which limits clash."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from reassembly.enumeration import PathCosts
from reassembly.programme.problem import UNBOUNDED, Limit, Programme, Solution
from reassembly.programme.tables import Table

MAX_BATCH = 1 << 12
"""Of the best paths, so many are looked through for diverse ones; beyond, each is asked for by itself."""
LABELS = 1 << 16
"""Labels extended at once; bounds the memory of the dynamic programme."""


def best_paths(programme: Programme, num_paths: int = 1) -> list[Solution]:
    """The paths of greatest value, best first, exact; fewer where fewer are admitted.

    Labels (partial paths) are extended stage by stage, best bound first. One is dropped when no ending can keep the
    limits, or when its Lagrangian bound is not above the ``num_paths`` best values found so far, to 1e-12 of their size
    (so that a million ties are not all walked). Of several equal values those met first are given, always the same.

    Args:
        programme: What is maximised.
        num_paths: How many are wanted.
    """
    table = Table(programme)
    if not table.possible:
        return []
    weights, bound, _ = table.dual()
    reduced = table.reduced(weights)
    ahead, constant = table.to_end(reduced, np.maximum), table.constant(weights)
    tolerance = 1e-12 * (abs(bound) + abs(constant))
    found: list[tuple[float, int, tuple[int, ...]]] = []
    threshold = -np.inf

    def offer(items: np.ndarray, values: np.ndarray) -> None:
        nonlocal found, threshold
        kept = np.flatnonzero(values > threshold)
        kept = kept[np.argsort(-values[kept], kind="stable")[:num_paths]]
        found += [(-float(values[i]), items.shape[1], tuple(items[i].tolist())) for i in kept]
        found = sorted(found)[:num_paths]
        if len(found) == num_paths:
            threshold = -found[-1][0] + tolerance

    stack = [table.first(reduced, ahead)]
    while stack:
        labels = stack.pop()
        labels = labels.take(labels.bound + constant > threshold)
        if not len(labels):
            continue
        stage, rows = labels.items.shape[1] - 1, max(1, LABELS // table.num_items)
        if stage + 1 < table.num_stages and len(labels) > rows:  # the best chunk first: the threshold rises early
            labels = labels.take(np.argsort(-labels.bound, kind="stable"))
            stack += [labels.take(slice(start, start + rows)) for start in reversed(range(0, len(labels), rows))]
            continue
        ended = labels.take(table.may_end(labels))
        if len(ended):
            offer(ended.items, ended.value + programme.value.tail[0, stage, ended.items[:, -1]])
        if stage + 1 < table.num_stages:
            stack.append(table.extend(labels, reduced, ahead, threshold - constant))
    best = -found[0][0] if found else bound
    return [Solution(path, -value, tuple(programme.costs.total(path).tolist()), best) for value, _, path in found]


def diverse_paths(programme: Programme, num_paths: int, min_difference: int) -> Iterator[Solution]:
    """The best path, then always the best that differs from all before in at least ``min_difference`` stages.

    Args:
        programme: What is maximised.
        num_paths: How many at most.
        min_difference: 1 gives the ``num_paths`` best.
    """
    chosen: list[tuple[int, ...]] = []
    batch = 4 * num_paths
    while batch <= MAX_BATCH:  # among the best many, most of the wanted ones are found at once
        found = best_paths(programme, batch)
        for solution in found:
            if all(_difference(solution.path, path) >= min_difference for path in chosen):
                chosen.append(solution.path)
                yield solution
                if len(chosen) == num_paths:
                    return
        if len(found) < batch:
            return
        batch *= 4
    for path in chosen:
        programme = programme.differing(path, min_difference)
    for _ in range(num_paths - len(chosen)):
        if not (solutions := best_paths(programme)):
            return
        yield solutions[0]
        programme = programme.differing(solutions[0].path, min_difference)


def _difference(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """In how many stages two paths differ; where one has ended, the other differs."""
    return max(len(one), len(other)) - sum(a == b for a, b in zip(one, other, strict=False))


def clashing_limits(
    programme: Programme, names: Sequence[str], is_kept: Callable[[Programme], bool] = lambda programme: False
) -> tuple[str, ...]:
    """The smallest set of limits that no path keeps; empty where the programme has a solution.

    Args:
        programme: Its costs' limits come first, in order: C lower ones, C upper ones; then those on counts.
        names: Of the 2 C limits on costs.
        is_kept: Whether something beside the paths keeps the limits of a programme.
    """
    num_costs = len(programme.low)
    sides = [("low", c) for c in range(num_costs)] + [("high", c) for c in range(num_costs)]
    trivial = {("low", c) for c in range(num_costs) if programme.low[c] <= 0}
    trivial |= {("high", c) for c in range(num_costs) if programme.high[c] == UNBOUNDED}
    every = [(names[n], side) for n, side in enumerate(sides) if side not in trivial]
    every += [(limit.name, limit) for limit in programme.limits]
    finite = replace(programme, value=PathCosts(*(np.where(np.isfinite(p), 0.0, p) for p in programme.value.parts())))
    for size in range(len(every) + 1):
        for chosen in combinations(every, size):
            low, high = np.full(num_costs, -UNBOUNDED), np.full(num_costs, UNBOUNDED)
            for _, side in chosen:
                if isinstance(side, tuple):
                    (low if side[0] == "low" else high)[side[1]] = getattr(programme, side[0])[side[1]]
            limits = tuple(side for _, side in chosen if isinstance(side, Limit))
            asked = replace(finite, low=low, high=high, limits=limits)
            if not is_kept(asked) and not best_paths(asked):
                return tuple(name for name, _ in chosen)
    return ()
