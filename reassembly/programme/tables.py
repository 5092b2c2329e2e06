"""The tables of a programme: what may follow every item, the prices of its limits, and labels (partial paths)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reassembly.enumeration import PathCosts
from reassembly.programme.problem import Programme

OPEN = 1 << 62
"""An open limit inside the tables: far enough from the ends of int64 to subtract costs from it."""


@dataclass(frozen=True)
class Labels:
    """Partial paths: items (P, m), spent (C, P) int64, counts (Q, P) int64, value (P,), and its bound without constant.

    ``reduced`` is the value less the priced costs.
    """

    items: np.ndarray
    spent: np.ndarray
    counts: np.ndarray
    value: np.ndarray
    reduced: np.ndarray
    bound: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def take(self, which) -> Labels:
        columns = (self.spent, self.counts)
        rows = (self.value, self.reduced, self.bound)
        return Labels(self.items[which], *(c[:, which] for c in columns), *(r[which] for r in rows))


class Table:
    """The tables of a programme with what can follow every item, for bounds."""

    def __init__(self, programme: Programme) -> None:
        self.programme, self.costs, self.limits = programme, programme.costs, programme.limits
        self.num_stages, self.num_items = programme.costs.num_stages, programme.costs.num_items
        lowest = np.where(programme.low <= 0, -OPEN, programme.low)  # costs are never negative
        self.low = np.array([*lowest, *(limit.low for limit in self.limits)], np.int64).clip(-OPEN)
        self.high = np.array([*programme.high, *(limit.high for limit in self.limits)], np.int64).clip(max=OPEN)
        shape = (0, self.num_stages, self.num_items)
        self.weights = np.stack([limit.weights for limit in self.limits]) if self.limits else np.zeros(shape, np.int64)
        self.least, self.most = self._extremes(np.minimum), self._extremes(np.maximum)
        start = self._starts()
        self.possible = bool(self._fits(start, 0, np.arange(self.num_items)).any())

    def _extremes(self, extreme) -> list[np.ndarray]:
        """Per stage the least or most (C + Q, N) that can follow an item, over all endings."""
        num_limits, rows = len(self.limits), []
        for stage in reversed(range(self.num_stages)):
            here = np.concatenate([self.costs.tail[:, stage], np.zeros((num_limits, self.num_items), np.int64)])
            if rows:
                costs, limits = rows[0][: -num_limits or None], rows[0][len(rows[0]) - num_limits :]
                seams = self.costs.pairwise[:, stage] + (self.costs.unary[:, stage + 1] + costs)[:, None, :]
                counts = extreme.reduce(self.weights[:, stage + 1] + limits, axis=1)
                counts = np.repeat(counts[:, None], self.num_items, axis=1)
                here = extreme(here, np.concatenate([extreme.reduce(seams, axis=2), counts]))
            rows.insert(0, here)
        return rows

    def _starts(self) -> np.ndarray:
        return np.concatenate([self.costs.unary[:, 0], self.weights[:, 0]])

    def _fits(self, spent: np.ndarray, stage: int, items: np.ndarray) -> np.ndarray:
        """Which of the (C + Q, P) costs so far some ending may bring within the limits."""
        low, high = self.low[:, None], self.high[:, None]
        return ((spent <= high - self.least[stage][:, items]) & (spent >= low - self.most[stage][:, items])).all(0)

    def first(self, reduced: PathCosts, ahead: list[np.ndarray]) -> Labels:
        """The paths of one block that may still keep the limits."""
        items, spent = np.arange(self.num_items), self._starts()
        value = self.programme.value.unary[0, 0]
        num_costs = len(self.programme.low)
        priced = reduced.unary[0, 0]
        labels = Labels(items[:, None], spent[:num_costs], spent[num_costs:], value, priced, priced + ahead[0])
        return labels.take(self._fits(spent, 0, items) & np.isfinite(labels.bound))

    def may_end(self, labels: Labels) -> np.ndarray:
        """Which labels are whole paths within the limits."""
        stage, last = labels.items.shape[1] - 1, labels.items[:, -1]
        spent = np.concatenate([labels.spent + self.costs.tail[:, stage, last], labels.counts])
        inside = ((spent >= self.low[:, None]) & (spent <= self.high[:, None])).all(0)
        return inside & np.isfinite(self.programme.value.tail[0, stage, last])

    def extend(self, labels: Labels, reduced: PathCosts, ahead: list[np.ndarray], least: float) -> Labels:
        """Every label with every next item, of those whose bound is above ``least``."""
        stage, last = labels.items.shape[1], labels.items[:, -1]
        priced = labels.reduced[:, None] + reduced.pairwise[0, stage - 1, last] + reduced.unary[0, stage]
        bound = priced + ahead[stage]
        which, following = np.nonzero((bound > least) & np.isfinite(bound))
        before = last[which]
        spent = (
            labels.spent[:, which]
            + self.costs.pairwise[:, stage - 1, before, following]
            + self.costs.unary[:, stage, following]
        )
        counts = labels.counts[:, which] + self.weights[:, stage, following]
        value, table = labels.value[which], self.programme.value
        value = value + table.pairwise[0, stage - 1, before, following] + table.unary[0, stage, following]
        items = np.concatenate([labels.items[which], following[:, None]], axis=1)
        grown = Labels(items, spent, counts, value, priced[which, following], bound[which, following])
        return grown.take(self._fits(np.concatenate([spent, counts]), stage, following))

    def reduced(self, weights: np.ndarray) -> PathCosts:
        """The values less the costs at these prices (one float64 quantity)."""
        num_costs = len(self.programme.low)
        prices, counted = weights[:num_costs], weights[num_costs:]
        unary, seams, tail = (
            value - np.tensordot(prices, cost, 1)[None]
            for value, cost in zip(self.programme.value.parts(), self.costs.parts(), strict=True)
        )
        return PathCosts(unary - np.tensordot(counted, self.weights, 1)[None], seams, tail)

    def constant(self, weights: np.ndarray) -> float:
        """What the prices earn at the limits: added to the best reduced value it bounds every admitted path."""
        at = np.where(weights > 0, self.high, np.where(weights < 0, self.low, 0))
        return float((weights * at).sum())

    def to_end(self, value: PathCosts, extreme) -> list[np.ndarray]:
        """Per stage the best that can follow an item, over all endings: (N,) float64 each."""
        rows = [value.tail[0, -1]]
        for stage in range(self.num_stages - 2, -1, -1):
            seams = value.pairwise[0, stage] + (value.unary[0, stage + 1] + rows[0])
            rows.insert(0, extreme(value.tail[0, stage], extreme.reduce(seams, axis=1)))
        return rows

    def dual(self, num_steps: int = 120) -> tuple[np.ndarray, float, tuple[int, ...] | None]:
        """Prices of the limits, the bound they give, and the best admitted path met on the way.

        Subgradient steps of Polyak's length on the Lagrangian dual; any prices give a valid bound, so that these need
        not be the best.
        """
        open_low, open_high = self.low == -OPEN, self.high == OPEN
        active = ~(open_low & open_high)
        scale = np.maximum(1.0, np.where(open_high, np.abs(self.low), np.abs(self.high)).astype(float))
        weights = np.zeros(len(self.low))
        best_weights, best_bound, incumbent, value = weights, np.inf, None, -np.inf
        factor, idle = 1.5, 0
        for _ in range(num_steps if active.any() else 1):
            reduced = self.reduced(weights)
            path = self._best(reduced)
            if path is None:
                return best_weights, -np.inf, incumbent
            bound = float(reduced.total(path)[0]) + self.constant(weights)
            if bound < best_bound:
                best_weights, best_bound, idle = weights, bound, 0
            else:
                idle += 1
                if idle % 4 == 0:
                    factor, weights = factor / 2, best_weights
                    continue
            if self.programme.admits(path) and (worth := self.programme.value_of(path)) > value:
                incumbent, value = path, worth
            spent = np.concatenate([self.costs.total(path), self._counts(path)])
            over, under = (weights > 0) | ((weights == 0) & (spent > self.high)), (weights < 0) | (spent < self.low)
            gradient = np.where(over, self.high - spent, np.where(under, self.low - spent, 0))
            gradient = np.where(active, gradient, 0) / scale
            length = float((gradient**2).sum())
            target = value if np.isfinite(value) else best_bound - 0.1 * max(1.0, abs(best_bound))
            if length == 0 or best_bound - target <= 1e-12 * max(1.0, abs(best_bound)):
                break
            stride = factor * max(bound - target, 1e-12) / length
            moved = weights * scale - stride * gradient
            moved = np.where(open_high, np.minimum(moved, 0), np.where(open_low, np.maximum(moved, 0), moved))
            weights = moved / scale
        return best_weights, best_bound, incumbent

    def _counts(self, path: Sequence[int]) -> np.ndarray:
        return self.weights[:, range(len(path)), path].sum(1)

    def _best(self, value: PathCosts) -> tuple[int, ...] | None:
        """The path of greatest value without any limit; None if none is finite."""
        ahead = self.to_end(value, np.maximum)
        worth = value.unary[0, 0] + ahead[0]
        path = [int(worth.argmax())]
        if not np.isfinite(worth[path[0]]):
            return None
        for stage in range(self.num_stages - 1):
            following = value.pairwise[0, stage, path[-1]] + value.unary[0, stage + 1] + ahead[stage + 1]
            if value.tail[0, stage, path[-1]] >= following.max():
                break
            path.append(int(following.argmax()))
        return tuple(path)

    def promising(self, weights: np.ndarray, least: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per stage the seams (i, j) on some path whose bound reaches ``least`` and that may keep every limit alone."""
        reduced, constant = self.reduced(weights), self.constant(weights)
        ahead, behind = self.to_end(reduced, np.maximum), [reduced.unary[0, 0]]
        costs = self._starts()
        least_costs = most_costs = costs
        tolerance = 1e-9 * max(1.0, abs(least)) if np.isfinite(least) else 0.0
        seams = []
        for stage in range(self.num_stages - 1):
            bound = behind[-1][:, None] + reduced.pairwise[0, stage] + reduced.unary[0, stage + 1]
            step = np.concatenate(
                [
                    self.costs.pairwise[:, stage] + self.costs.unary[:, stage + 1][:, None, :],
                    np.repeat(self.weights[:, stage + 1][:, None, :], self.num_items, axis=1),
                ]
            )
            low, high = least_costs[:, :, None] + step, most_costs[:, :, None] + step
            fits = (low <= (self.high[:, None] - self.least[stage + 1])[:, None, :]).all(0)
            fits &= (high >= (self.low[:, None] - self.most[stage + 1])[:, None, :]).all(0)
            total = bound + ahead[stage + 1] + constant
            seams.append(np.nonzero(fits & np.isfinite(total) & (total >= least - tolerance)))
            behind.append(bound.max(0))
            least_costs, most_costs = low.min(1), high.max(1)
        return seams
