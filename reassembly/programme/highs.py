"""The programme solved as it is written, by HiGHS."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise

import numpy as np

from reassembly.programme.labels import best_paths
from reassembly.programme.problem import UNBOUNDED, Programme, Solution
from reassembly.programme.tables import Table


def solve_milp(programme: Programme, time_limit: float | None = None) -> Solution | None:
    """The programme as written, solved by HiGHS; None where nothing is admitted.

    HiGHS computes in floating point: a path that breaks a limit by a hair is cut off, and it is asked again, so that
    what is returned keeps the limits in integers. Its value is the best to within 1e-6 of the range of values.

    Args:
        programme: What is maximised.
        time_limit: Seconds; the solution then reached is returned with its ``upper_bound``.
    """
    table = Table(programme)
    if not table.possible:
        return None
    weights, bound, incumbent = table.dual()
    for solution in best_paths(programme):  # tells which seams can be left out; HiGHS alone proves that none is better
        incumbent = solution.path
    while True:
        seams = table.promising(weights, -np.inf if incumbent is None else programme.value_of(incumbent))
        path, upper = _ask_highs(programme, table, seams, time_limit)
        if path is None:
            if incumbent is None:
                return None
            path = incumbent
        if programme.admits(path):
            value = programme.value_of(path)
            if incumbent is not None and programme.value_of(incumbent) > value:
                path, value = incumbent, programme.value_of(incumbent)
            costs = tuple(programme.costs.total(path).tolist())
            return Solution(tuple(path), value, costs, max(value, min(upper, bound)))
        programme = programme.differing(path, 1)
        table = Table(programme)


def _ask_highs(
    programme: Programme, table: Table, seams: Sequence[tuple[np.ndarray, np.ndarray]], time_limit: float | None
) -> tuple[tuple[int, ...] | None, float]:
    """The path HiGHS finds over these seams, and its bound; (None, -inf) where there is none."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second, which most searches do without
    from scipy.sparse import coo_array

    stages, items = table.num_stages, table.num_items
    numbers = count()
    x = np.array([next(numbers) for _ in range(stages * items)]).reshape(stages, items)
    e = np.array([next(numbers) for _ in range(stages * items)]).reshape(stages, items)
    y = [np.array([next(numbers) for _ in origins], dtype=int) for origins, _ in seams]
    size = next(numbers)
    value = programme.value
    objective, upper = np.zeros(size), np.ones(size)
    objective[x], objective[e] = value.unary[0], value.tail[0]
    for stage, (origins, ends) in enumerate(seams):
        objective[y[stage]] = value.pairwise[0, stage, origins, ends]
    upper[~np.isfinite(objective)] = 0
    finite = np.where(np.isfinite(objective), objective, 0.0)
    spread = max(float(np.abs(finite).max()), 1e-12)

    rows, columns, entries, lows, highs = [], [], [], [], []

    def require(terms: Sequence[tuple[np.ndarray, np.ndarray | float]], low: float, high: float) -> None:
        row = len(lows)
        for which, weight in terms:
            which = np.ravel(which)
            rows.append(np.full(len(which), row))
            columns.append(which)
            entries.append(np.broadcast_to(np.ravel(weight), which.shape).astype(float))
        lows.append(low)
        highs.append(high)

    require([(x[0], 1.0)], 1, 1)
    for stage in range(stages):
        leaving = _grouped(seams[stage][0], y[stage], items) if stage + 1 < stages else [[]] * items
        arriving = _grouped(seams[stage - 1][1], y[stage - 1], items) if stage else None
        for i in range(items):
            require([(x[stage, i], 1.0), (e[stage, i], -1.0), (np.array(leaving[i], int), -1.0)], 0, 0)
            if arriving is not None:
                require([(x[stage, i], 1.0), (np.array(arriving[i], int), -1.0)], 0, 0)
    costs = programme.costs
    for c, (low, high) in enumerate(zip(programme.low, programme.high, strict=True)):
        if low <= 0 and high == UNBOUNDED:
            continue
        scale = float(max(abs(low) if high == UNBOUNDED else abs(high), 1))
        terms = [(x, costs.unary[c] / scale), (e, costs.tail[c] / scale)]
        terms += [
            (y[stage], costs.pairwise[c, stage, origins, ends] / scale) for stage, (origins, ends) in enumerate(seams)
        ]
        require(terms, low / scale, np.inf if high == UNBOUNDED else high / scale)
    for limit in programme.limits:
        low = -np.inf if limit.low == -UNBOUNDED else limit.low
        require([(x, limit.weights)], low, np.inf if limit.high == UNBOUNDED else limit.high)

    matrix = coo_array(
        (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns))), shape=(len(lows), size)
    ).tocsr()
    integral = np.zeros(size)
    integral[x] = 1  # the seams follow from the blocks
    options = {"mip_rel_gap": 0.0} | ({} if time_limit is None else {"time_limit": time_limit})
    result = milp(
        -finite / spread,
        integrality=integral,
        bounds=Bounds(0, upper),
        constraints=LinearConstraint(matrix, lows, highs),
        options=options,
    )
    if result.x is None:
        bound = -np.inf if result.status == 2 else np.inf
        return None, bound
    taken = result.x[x] > 0.5
    path = tuple(int(row.argmax()) for row in taken if row.any())
    return path, float(-result.mip_dual_bound * spread) if result.mip_dual_bound is not None else np.inf


def _grouped(keys: np.ndarray, values: np.ndarray, num_keys: int) -> list[np.ndarray]:
    """The values of every key 0..num_keys - 1."""
    order = np.argsort(keys, kind="stable")
    borders = np.searchsorted(keys[order], np.arange(num_keys + 1))
    return [values[order[a:b]] for a, b in pairwise(borders)]
