"""Which share and position of every source are taken, out of the table of those that were tried.

What counts is the sum over the sources: of losses, of MACs, of parameters.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cloning.measures import mean
from cloning.settings import AddedBudget, InsertionSettings
from zoo.errors import UserError

LEAST_CLONED, MOST_OTHER = 0.9, 0.5
"""Conditional similarities of a module that counts as local."""

LOSS_FLOOR = 0.02
STRICT_FLOOR = 0.01
"""Losses below which differences do not count when the cheapest near the least is chosen."""

MOST_LOST = 0.005
"""Validation accuracy, mean of original and cloned classes, that the cheapest may lose against the least loss."""

WORTH_THE_WHOLE = 1.5
"""Times the least loss with the whole source: where every part of it is above, the whole is considered, too."""

MAX_COMBINATIONS = 200_000


@dataclass(frozen=True)
class PositionResult:
    """One row of the table of positions.

    Attributes:
        source: Name of the source.
        position: The cut R of the target.
        source_position: The cut of the source that it feeds.
        loss: What the search compares: class-balanced cross-entropy of the validation samples after the short tuning;
            without correction samples of the target's classes how far the module is from its source on the validation
            samples of the cloned classes, one minus the mean cosine of their logits about the mean.
        val_original: Accuracy after the short tuning on the target's classes of the validation split, averaged over
            the classes; in [0, 1].
        val_cloned: The same for the cloned classes.
        num_bytes: Of what would travel: gates, adapter and head, in float32.
        kernel_size: Of the adapter, 0 where there is none.
        seconds: Wall time.
        keep: The share of localisation, 1 for the whole source.
        sim_cloned: Cosine of the module's logits with the source's on the cloned classes, both about their mean, on the
            image itself; of the validation split.
        sim_other: The same on the source's other classes; ``None`` if the target keeps none of them.
        added_params: Parameters of the slim module, its adapter and its columns of the head.
        added_macs: Multiply-accumulate operations of the same, per image.
    """

    source: str
    position: int
    source_position: int
    loss: float
    val_original: float
    val_cloned: float
    num_bytes: int
    kernel_size: int
    seconds: float
    keep: float = 1.0
    sim_cloned: float = 1.0
    sim_other: float | None = None
    added_params: int = 0
    added_macs: int = 0

    @property
    def accuracy(self) -> float:
        """Mean of the accuracies on the target's and the cloned classes, as far as they are known."""
        return mean([self.val_original, self.val_cloned]) or 0.0

    def beside(self, num_classes: int, num_features: int) -> PositionResult:
        """With the columns of the head that are for so many classes of the other sources."""
        columns = num_classes * num_features
        return replace(self, added_params=self.added_params + columns, added_macs=self.added_macs + columns)

    @property
    def is_local(self) -> bool:
        """Whether the module is as its source on the cloned classes, and is not on others."""
        return self.sim_cloned >= LEAST_CLONED and (self.sim_other is None or self.sim_other <= MOST_OTHER)


def choose(
    rows: Sequence[Sequence[PositionResult]],
    settings: InsertionSettings,
    budget: AddedBudget | None = None,
    *,
    is_strict: bool = False,
) -> tuple[PositionResult, ...]:
    """One row per source: the best that fits the budget together.

    ``search`` takes the least sum of losses. ``tolerance`` and ``fixed`` take, of the choices whose sum is at most
    ``settings.tolerance`` times the least and whose accuracies are at most ``MOST_LOST`` below those there, the ones
    with the most local modules, and of these the one that adds the fewest MACs. Without a budget, and unless losses are
    distances, ``tolerance`` considers positions behind the image only where ``settings.inner_tolerance`` lets them, and
    whole sources only where no part comes near (``WORTH_THE_WHOLE``).

    Args:
        rows: By source.
        settings: How to choose.
        budget: What the chosen may add together.
        is_strict: The losses are distances from the source, not cross-entropies.

    Raises:
        UserError: Nothing fits the budget; with the nearest.
    """
    budget = budget or AddedBudget()
    if settings.name == "tolerance" and not is_strict and budget.is_open:
        rows = [_parts(_earned(table, settings.inner_tolerance)) for table in rows]
    tables = [_front(table) for table in rows]
    while math.prod(map(len, tables)) > MAX_COMBINATIONS:
        longest = max(tables, key=len)
        cheapest = [min(longest, key=lambda row: row.added_macs), min(longest, key=lambda row: row.added_params)]
        others = [row for row in longest if row not in cheapest]
        longest.remove(max(others or longest, key=lambda row: row.loss))
    combinations = [(found, *_sums(found)) for found in itertools.product(*tables)]
    fitting = [
        found
        for found in combinations
        if (budget.max_macs is None or found[2] <= budget.max_macs)
        and (budget.max_params is None or found[3] <= budget.max_params)
    ]
    if not fitting:
        _, _, macs, params = min(
            combinations,
            key=lambda found: max(_share(found[2], budget.max_macs), _share(found[3], budget.max_params)),
        )
        asked = [
            f"budget.{key}={value}"
            for key, value in (("max_macs", budget.max_macs), ("max_params", budget.max_params))
            if value is not None
        ]
        raise UserError(
            f"{' '.join(asked)}: no clones add so little; the nearest add {macs:,} MACs and {params:,} parameters: "
            "type " + " ".join(f"{text.split('=')[0]}={macs if 'macs' in text else params}" for text in asked)
        )
    least = min(loss for _, loss, _, _ in fitting)
    if settings.name == "search":
        return min(fitting, key=lambda found: (found[1], found[2], [row.position for row in found[0]]))[0]
    bound = settings.tolerance * max(least, len(tables) * loss_floor(is_strict=is_strict))
    best = _accuracy(min(fitting, key=lambda found: found[1])[0])
    near = [found for found in fitting if found[1] <= bound and (is_strict or _accuracy(found[0]) >= best - MOST_LOST)]
    return min(near, key=lambda found: (-sum(row.is_local for row in found[0]), found[2], found[3], found[1]))[0]


def loss_floor(*, is_strict: bool) -> float:
    """The loss of one source below which differences do not count."""
    return STRICT_FLOOR if is_strict else LOSS_FLOOR


def _earned(table: Sequence[PositionResult], tolerance: float) -> list[PositionResult]:
    """The rows without those behind the image whose loss is above so many times the least loss there."""
    at_image = [row.loss for row in table if row.position == 0]
    bound = tolerance * max(LOSS_FLOOR, min(at_image, default=math.inf))
    return [row for row in table if row.position == 0 or row.loss <= bound]


def _parts(table: Sequence[PositionResult]) -> list[PositionResult]:
    """The rows without those of the whole source, unless every part loses too much."""
    parts = [row for row in table if row.keep < 1]
    whole = min((row.loss for row in table if row.keep == 1), default=math.inf)
    is_near = bool(parts) and min(row.loss for row in parts) <= WORTH_THE_WHOLE * max(LOSS_FLOOR, whole)
    return parts if is_near else list(table)


def _front(table: Sequence[PositionResult]) -> list[PositionResult]:
    """The rows that no other beats in loss, costs and locality at once."""

    def beats(a: PositionResult, b: PositionResult) -> bool:
        pairs = [(a.loss, b.loss), (a.added_macs, b.added_macs), (a.added_params, b.added_params)]
        pairs += [(not a.is_local, not b.is_local), (-a.accuracy, -b.accuracy)]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    return [row for row in table if not any(beats(other, row) for other in table)]


def on_front(row: PositionResult, table: Sequence[PositionResult]) -> bool:
    """Whether no other row has both less loss and fewer added MACs, or one of them with the other the same."""
    return not any(
        other.loss <= row.loss
        and other.added_macs <= row.added_macs
        and (other.loss < row.loss or other.added_macs < row.added_macs)
        for other in table
    )


def _share(cost: int, limit: int | None) -> float:
    """Of a limit; 0 without one."""
    return 0.0 if limit is None else cost / max(limit, 1)


def _accuracy(found: Sequence[PositionResult]) -> float:
    return sum(row.accuracy for row in found) / len(found)


def _sums(found: Sequence[PositionResult]) -> tuple[float, int, int]:
    return sum(row.loss for row in found), sum(row.added_macs for row in found), sum(row.added_params for row in found)
