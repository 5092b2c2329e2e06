"""Exact enumeration of paths whose additive integer costs lie between limits, vectorised, pruned by cost-to-go.

A path takes one of N items in every stage 1..m, for any m <= K. Every cost is a sum over the path:
``unary[0, i_1] + pairwise[0, i_1, i_2] + unary[1, i_2] + ... + tail[m - 1, i_m]``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CHUNK = 1 << 18
"""Partial paths grown at once; bounds the memory of the enumeration."""


@dataclass(frozen=True)
class PathCosts:
    """C additive quantities of every path: int64 costs, or float64 values to maximise.

    Attributes:
        unary: (C, K, N), of item i in stage k.
        pairwise: (C, K - 1, N, N), of going from item i in stage k to item j in stage k + 1.
        tail: (C, K, N), of ending with item i in stage k.
    """

    unary: np.ndarray
    pairwise: np.ndarray
    tail: np.ndarray

    def __post_init__(self) -> None:
        quantities, stages, items = self.unary.shape
        assert self.tail.shape == self.unary.shape
        assert self.pairwise.shape == (quantities, stages - 1, items, items)

    @property
    def num_stages(self) -> int:
        return self.unary.shape[1]

    @property
    def num_items(self) -> int:
        return self.unary.shape[2]

    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three tables."""
        return self.unary, self.pairwise, self.tail

    def total(self, path: Sequence[int]) -> np.ndarray:
        """The (C,) quantities of one path."""
        total = sum(self.unary[:, stage, item] for stage, item in enumerate(path))
        total = total + sum(self.pairwise[:, k, i, j] for k, (i, j) in enumerate(itertools.pairwise(path)))
        return total + self.tail[:, len(path) - 1, path[-1]]

    def to_go(self, length: int, extreme) -> list[np.ndarray]:
        """Per stage of a path of this length, the least (``np.min``) or most (``np.max``) that can follow an item."""
        bounds = [self.tail[:, length - 1]]
        for stage in range(length - 2, -1, -1):
            following = self.pairwise[:, stage] + (self.unary[:, stage + 1] + bounds[0])[:, None, :]
            bounds.insert(0, extreme(following, axis=2))
        return bounds

    def combined(self, weights: Sequence[float]) -> PathCosts:
        """One float64 quantity: the weighted sum of these."""
        parts = (np.tensordot(np.asarray(weights, float), part, 1)[None] for part in self.parts())
        return PathCosts(*parts)


@dataclass(frozen=True)
class Paths:
    """Paths of one length with their costs: ``items`` (P, m) int64, ``costs`` (C, P) int64."""

    items: np.ndarray
    costs: np.ndarray

    def __len__(self) -> int:
        return len(self.items)


def feasible_paths(costs: PathCosts, low: np.ndarray, high: np.ndarray, length: int) -> Iterator[Paths]:
    """Every path of one length with ``low <= cost <= high`` in each quantity, in chunks and lexicographic order.

    A partial path is dropped as soon as the least that must follow exceeds ``high`` or the most that can follow stays
    under ``low`` in one quantity, so tight limits cost little even where N^m is huge.
    """
    least, most = costs.to_go(length, np.min), costs.to_go(length, np.max)

    def keep(items: np.ndarray, spent: np.ndarray) -> Paths:
        stage = items.shape[1] - 1
        last = items[:, -1]
        fits = (spent + least[stage][:, last] <= high[:, None]) & (spent + most[stage][:, last] >= low[:, None])
        fits = fits.all(0)
        return Paths(items[fits], spent[:, fits])

    def grow(paths: Paths) -> Iterator[Paths]:
        stage = paths.items.shape[1]
        if stage == length:
            yield Paths(paths.items, paths.costs + costs.tail[:, length - 1, paths.items[:, -1]])
            return
        rows = max(1, CHUNK // costs.num_items)
        for start in range(0, len(paths), rows):
            items, spent = paths.items[start : start + rows], paths.costs[:, start : start + rows]
            grown = spent[:, :, None] + costs.pairwise[:, stage - 1, items[:, -1]] + costs.unary[:, stage, None, :]
            prefixes = np.repeat(items, costs.num_items, axis=0)
            nexts = np.tile(np.arange(costs.num_items), len(items))[:, None]
            kept = keep(np.concatenate([prefixes, nexts], axis=1), grown.reshape(len(grown), -1))
            if len(kept):
                yield from grow(kept)

    first = keep(np.arange(costs.num_items)[:, None], costs.unary[:, 0])
    if len(first):
        yield from grow(first)
