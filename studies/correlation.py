"""Kendall's tau with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2000


@dataclass(frozen=True)
class Tau:
    """Kendall's tau-b between two columns, pairs within one group alone.

    Attributes:
        tau: Over all pairs of one group; None where one column is constant in all of them.
        low: The 2.5th percentile over draws of rows with replacement, group by group.
        high: The 97.5th.
        num_rows: Of all groups.
    """

    tau: float | None
    low: float | None
    high: float | None
    num_rows: int

    def __str__(self) -> str:
        return "none" if self.tau is None else f"{self.tau:.2f} [{self.low:.2f}, {self.high:.2f}]"


def kendall(first: Sequence[float], second: Sequence[float], groups: Sequence | None = None, *, seed: int = 0) -> Tau:
    """How far two columns agree on which of two rows is the greater.

    Args:
        first: (n,).
        second: (n,).
        groups: (n,) Only rows of one group are compared, such as those of one split; all are one without it.
        seed: Of the bootstrap.
    """
    columns = np.array([first, second], float)
    groups = np.zeros(columns.shape[1], int) if groups is None else np.unique(groups, return_inverse=True)[1]
    parts = [columns[:, groups == group] for group in np.unique(groups)]
    tau = _tau(parts)
    if tau is None:
        return Tau(None, None, None, columns.shape[1])
    generator, draws = np.random.default_rng(seed), []
    for _ in range(NUM_DRAWS):
        drawn = _tau([part[:, generator.integers(0, part.shape[1], part.shape[1])] for part in parts])
        if drawn is not None:
            draws.append(drawn)
    low, high = np.quantile(draws, (0.025, 0.975))
    return Tau(tau, float(low), float(high), columns.shape[1])


def _tau(parts: Sequence[np.ndarray]) -> float | None:
    """From signs of differences: tau-b of one part, and of several that of their pairs together."""
    agreement = first = second = 0.0
    for columns in parts:
        a, b = (np.sign(column[:, None] - column) for column in columns)
        agreement, first, second = agreement + (a * b).sum(), first + (a * a).sum(), second + (b * b).sum()
    return float(agreement / np.sqrt(first * second)) if first and second else None
