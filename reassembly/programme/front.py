"""The whole front at once: every composition that no other beats in score and all costs together."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from reassembly.programme.problem import Programme, Solution
from reassembly.programme.tables import Labels, Table

ROWS = 1 << 17
"""Labels extended, or points compared, at once; bounds the memory."""


def undominated(points: np.ndarray) -> np.ndarray:
    """Which points no other point equals or undercuts in every column; of equal points the first is kept.

    Args:
        points: (P, D), float64 or int64, small is good.

    Returns:
        Their indices, ascending.
    """
    order = np.lexsort((np.arange(len(points)), *points.T[::-1]))  # only an earlier point can dominate a later one
    ordered = points[order]
    kept = _staircase(ordered[:, 1:]) if points.shape[1] == 3 else _by_chunks(ordered)
    return np.sort(order[kept])


def _staircase(pairs: np.ndarray) -> list[int]:
    """For points sorted by a first column: those whose other two no earlier point has both at most."""
    kept, xs, ys = [], [], []  # ys falls as xs rises
    for n, (x, y) in enumerate(pairs.tolist()):
        at = bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        kept.append(n)
        end = at
        while end < len(ys) and ys[end] >= y:
            end += 1
        begin = at - 1 if at and xs[at - 1] == x else at
        xs[begin:end], ys[begin:end] = [x], [y]
    return kept


def _by_chunks(ordered: np.ndarray, size: int = 256) -> list[int]:
    kept: list[int] = []
    front = ordered[:0]
    for start in range(0, len(ordered), size):
        chunk = ordered[start : start + size]
        left = np.arange(len(chunk))
        for begin in range(0, len(front), ROWS // size):
            rows = front[begin : begin + ROWS // size]
            left = left[~(rows[:, None] <= chunk[left]).all(2).any(0)]
        inside = (chunk[left][:, None] <= chunk[left]).all(2)  # [a, b]: a is at most b everywhere
        left = left[~np.triu(inside, 1).any(0)]
        kept += (start + left).tolist()
        front = np.concatenate([front, chunk[left]])
    return kept


def pareto_paths(programme: Programme) -> list[Solution]:
    """Every admitted path that no other admitted one beats or equals in value and in every cost, cheapest first.

    Labels that end in the same block are compared: one that is no better in value, in any cost and in what the limits
    still ask of it is dropped, since whatever follows it may follow the other. Exact; of equal paths one is kept.

    Args:
        programme: Its value and C costs are the objectives.
    """
    table = Table(programme)
    if not table.possible:
        return []
    value, ahead = programme.value, table.to_end(programme.value, np.maximum)
    fronts = table.first(value, ahead)
    ends: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for stage in range(table.num_stages):
        ended = fronts.take(table.may_end(fronts))
        last = ended.items[:, -1]
        padded = np.full((len(ended), table.num_stages), -1)
        padded[:, : stage + 1] = ended.items
        costs = ended.spent + programme.costs.tail[:, stage, last]
        ends.append((padded, costs, ended.value + value.tail[0, stage, last]))
        if stage + 1 == table.num_stages or not len(fronts):
            break
        grown: list[Labels] = []
        for start in range(0, len(fronts), max(1, ROWS // table.num_items)):
            part = fronts.take(slice(start, start + max(1, ROWS // table.num_items)))
            grown.append(_best_of_each(table, table.extend(part, value, ahead, -np.inf), stage + 1))
        fronts = _best_of_each(table, _joined(grown), stage + 1)
    items, costs, values = (
        np.concatenate(parts, axis=axis) for parts, axis in zip(zip(*ends, strict=True), (0, 1, 0), strict=True)
    )
    kept = undominated(np.column_stack([*costs, -values]))
    kept = kept[np.lexsort(costs[::-1, kept])]
    best = float(values.max(initial=-np.inf))
    return [
        Solution(tuple(i for i in items[n].tolist() if i >= 0), float(values[n]), tuple(costs[:, n].tolist()), best)
        for n in kept
    ]


def _best_of_each(table: Table, labels: Labels, stage: int) -> Labels:
    """The labels that no other label with the same last block beats."""
    asked = _asked(table, labels, stage)
    columns = np.column_stack([*labels.spent, -labels.value, *asked])
    last = labels.items[:, -1]
    order = np.argsort(last, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(last[order])) + 1)
    kept = [group[undominated(columns[group])] for group in groups if len(group)]
    return labels.take(np.concatenate(kept) if kept else slice(0, 0))


def _asked(table: Table, labels: Labels, stage: int) -> list[np.ndarray]:
    """What lower limits and counts still ask: columns in which a label must be no worse to take another's place."""
    last, num_costs = labels.items[:, -1], len(labels.spent)
    spent = np.concatenate([labels.spent, labels.counts])
    columns = []
    for c in range(len(spent)):
        low, high = table.low[c], table.high[c]
        least, most = table.least[stage][c, last], table.most[stage][c, last]
        enough = low - least  # from here on no ending falls below the lower limit
        if (spent[c] < enough).any():
            columns.append(-np.minimum(spent[c], enough))
        if c >= num_costs and (spent[c] + most > high).any():
            columns.append(np.maximum(spent[c], high - most))
    return columns


def _joined(parts: list[Labels]) -> Labels:
    rows = {name: [getattr(part, name) for part in parts] for name in Labels.__dataclass_fields__}
    return Labels(
        **{name: np.concatenate(found, axis=-1 if name in ("spent", "counts") else 0) for name, found in rows.items()}
    )
