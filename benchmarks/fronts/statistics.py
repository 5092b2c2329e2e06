"""Intervals of paired differences, and the area between two fronts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval.

    Attributes:
        mean: Over the splits of the means over their images.
        low: The 2.5th percentile of the bootstrap.
        high: The 97.5th.
        p: Two-sided, of no difference from 0: twice the share of draws on the other side, at least 1 / draws.
        num_splits: With one, only the images vary, which says nothing of other splits.
    """

    mean: float
    low: float
    high: float
    p: float
    num_splits: int

    @property
    def is_clear(self) -> bool:
        """Whether it is other than 0 with p < 0.05, over several splits."""
        return self.p < 0.05 and self.num_splits > 1


def bootstrap(values: Sequence[np.ndarray], *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Interval:
    """The two-level bootstrap: splits are drawn with replacement, and in each of them its test images.

    Splits that redraw one pool share images, so that the interval is somewhat too narrow for other pools.

    Args:
        values: Of every split, a number for each test image (n,): right or wrong, or the difference of two networks.
        num_draws: Of the bootstrap.
        seed: Of them.
    """
    generator = np.random.default_rng(seed)
    values = [np.asarray(of_split, float) for of_split in values]
    chosen = generator.integers(0, len(values), (num_draws, len(values)))
    means = np.empty(chosen.shape)
    for index, of_split in enumerate(values):
        places = chosen == index
        images = generator.integers(0, len(of_split), (int(places.sum()), len(of_split)))
        means[places] = of_split[images].mean(1)
    draws = means.mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    p = min(1.0, 2 * max(min((draws <= 0).mean(), (draws >= 0).mean()), 0.5 / num_draws))
    mean = float(np.mean([of_split.mean() for of_split in values]))
    return Interval(mean, float(low), float(high), float(p), len(values))


def area_weights(budgets: Sequence[float]) -> np.ndarray:
    """Weights (B,) with which values at rising budgets make their mean over the logarithm of the budget.

    The trapezoidal rule, divided by the width: the area between two fronts is the weighted sum of their differences,
    in units of accuracy. One budget has weight 1.
    """
    positions = np.log(np.asarray(budgets, float))
    if len(positions) == 1:
        return np.ones(1)
    widths = np.diff(positions)
    assert (widths > 0).all(), "budgets rise"
    weights = np.zeros(len(positions))
    weights[:-1] += widths / 2
    weights[1:] += widths / 2
    return weights / widths.sum()


def area_between(
    first: Sequence[Sequence], second: Sequence[Sequence], budgets: Sequence[float], **options
) -> Interval:
    """The area between two fronts, with its interval.

    Args:
        first: Of every budget, of every split, a number for each test image; the same images at all budgets.
        second: Likewise.
        budgets: Rising.
        options: Of ``bootstrap``.
    """
    weights = area_weights(budgets)
    differences = [
        [np.asarray(a, float) - np.asarray(b, float) for a, b in zip(*pair, strict=True)]
        for pair in zip(first, second, strict=True)
    ]
    of_splits = [
        sum(weight * at_budget[split] for weight, at_budget in zip(weights, differences, strict=True))
        for split in range(len(differences[0]))
    ]
    return bootstrap(of_splits, **options)
