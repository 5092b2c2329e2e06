"""What the programme maximises, and under which limits, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reassembly.enumeration import PathCosts

UNBOUNDED = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Limit:
    """How many of some items a path may take: ``low <= sum of weights of what it takes <= high``.

    Attributes:
        name: As the user knows it.
        weights: (K, N) int64.
    """

    name: str
    weights: np.ndarray
    low: int = -UNBOUNDED
    high: int = UNBOUNDED


@dataclass(frozen=True)
class Programme:
    """What is maximised, and under which limits.

    Attributes:
        value: One float64 quantity; ``-inf`` forbids a block, a seam or an ending.
        costs: C int64 quantities.
        low: (C,) int64.
        high: (C,) int64.
        limits: On counts of chosen items.
    """

    value: PathCosts
    costs: PathCosts
    low: np.ndarray
    high: np.ndarray
    limits: tuple[Limit, ...] = ()

    def admits(self, path: Sequence[int]) -> bool:
        """Whether a path keeps all limits, in integers, and its value is finite."""
        return self.keeps(path, self.costs.total(path)) and bool(np.isfinite(self.value_of(path)))

    def keeps(self, path: Sequence[int], costs: Sequence[int]) -> bool:
        """Whether something that takes these items keeps all limits at other costs (C,) than those of the path."""
        counts = [sum(int(limit.weights[k, i]) for k, i in enumerate(path)) for limit in self.limits]
        return bool(((self.low <= costs) & (costs <= self.high)).all()) and all(
            limit.low <= n <= limit.high for limit, n in zip(self.limits, counts, strict=True)
        )

    def value_of(self, path: Sequence[int]) -> float:
        """The value of a path."""
        return float(self.value.total(path)[0])

    def differing(self, path: Sequence[int], least: int) -> Programme:
        """The same programme for paths that differ from this one in at least ``least`` stages (a no-good cut).

        A stage differs where one path takes another block than the other, or only one of them takes any.
        """
        weights = np.zeros(self.value.unary.shape[1:], np.int64)
        weights[len(path) :] = 1
        weights[range(len(path)), path] = -1
        cut = Limit(f"{least} blocks other than in {tuple(path)}", weights, low=least - len(path))
        return replace(self, limits=(*self.limits, cut))


@dataclass(frozen=True)
class Solution:
    """A path of the programme.

    Attributes:
        path: Its item in every stage 1..m.
        value: What was maximised.
        costs: (C,) int64.
        upper_bound: On the value of any path that the programme admits.
    """

    path: tuple[int, ...]
    value: float
    costs: tuple[int, ...]
    upper_bound: float

    @property
    def gap(self) -> float:
        """How far the optimum may lie above this value."""
        return max(0.0, self.upper_bound - self.value)
