"""Which share and position of every source are taken, out of the table of those that were tried.

What counts is what they add together in MACs and parameters, and the loss that they have together; sums of the losses
that each has alone say which are worth a look at that.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cloning.measures import mean
from cloning.settings import AddedBudget, InsertionSettings, Share
from zoo.errors import UserError

LEAST_CLONED, MOST_OTHER = 0.9, 0.5
"""Conditional similarities of a module that counts as local."""

LOSS_FLOOR = 0.02
"""Of a source: below it differences do not count when the cheapest near the least is chosen."""

WORTH_THE_WHOLE = 1.5
"""Times the least loss with the whole source: where every part of it is above, the whole is considered, too."""

MAX_COMBINATIONS = 200_000
MAX_TOGETHER = 48
"""Combinations whose loss together is looked at: those with the least sums."""


@dataclass(frozen=True)
class PositionResult:
    """One row of the table of positions.

    Attributes:
        source: Name of the source.
        position: The cut R of the target.
        source_position: The cut of the source that it feeds.
        loss: What the search compares: class-balanced cross-entropy of the validation samples after the short tuning;
            without correction samples of the target's classes with a head that is calibrated on them.
        val_original: Accuracy after the short tuning on the target's classes of the validation split, averaged over
            the classes; in [0, 1].
        val_cloned: The same for the cloned classes.
        num_bytes: Of what would travel: gates, adapter and head, in float32.
        kernel_size: Of the adapter, 0 where there is none.
        seconds: Wall time.
        keep: Share of the source's MACs that stays, see ``Share``; 1 for the whole source.
        num_features: Of the source, that the head reads of the module.
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
    num_features: int = 0
    sim_cloned: float = 1.0
    sim_other: float | None = None
    added_params: int = 0
    added_macs: int = 0

    @property
    def share(self) -> Share:
        """What of the source it is."""
        return Share(self.keep)

    @property
    def accuracy(self) -> float:
        """Mean of the accuracies on the target's and the cloned classes, as far as they are known."""
        return mean([self.val_original, self.val_cloned]) or 0.0

    def beside(self, columns: int) -> PositionResult:
        """With so many more numbers of the head: for classes of other sources, and what it reads of the target."""
        return replace(self, added_params=self.added_params + columns, added_macs=self.added_macs + columns)

    @property
    def is_local(self) -> bool:
        """Whether the module is as its source on the cloned classes, and is not on others."""
        return self.sim_cloned >= LEAST_CLONED and (self.sim_other is None or self.sim_other <= MOST_OTHER)


@dataclass(frozen=True)
class Combination:
    """A row per source.

    Attributes:
        rows: The rows.
        loss: Of the network that they make together, or the sum of the rows' losses.
        val_original: Validation accuracy of that network on the target's classes, or the mean of the rows'.
        val_cloned: On the cloned classes, likewise.
        added_macs: All rows together.
        added_params: Likewise.
    """

    rows: tuple[PositionResult, ...]
    loss: float
    val_original: float
    val_cloned: float
    added_macs: int
    added_params: int

    @classmethod
    def summed(cls, rows: tuple[PositionResult, ...]) -> Combination:
        """Of rows that are looked at one by one."""
        known = [mean([getattr(row, key) for row in rows]) or 0.0 for key in ("val_original", "val_cloned")]
        macs, params = sum(row.added_macs for row in rows), sum(row.added_params for row in rows)
        return cls(rows, sum(row.loss for row in rows), *known, macs, params)

    @property
    def accuracy(self) -> float:
        """Mean of both accuracies."""
        return (self.val_original + self.val_cloned) / 2

    @property
    def num_local(self) -> int:
        """How many modules are local."""
        return sum(row.is_local for row in self.rows)


def choose(
    rows: Sequence[Sequence[PositionResult]],
    settings: InsertionSettings,
    budget: AddedBudget | None = None,
    *,
    together: Callable[[tuple[PositionResult, ...]], Combination] | None = None,
) -> tuple[PositionResult, ...]:
    """One row per source: the best that fits the budget together.

    ``search`` takes the least loss. ``tolerance`` and ``fixed`` take, of the choices whose loss is at most
    ``settings.tolerance`` times the least and whose accuracy is at most ``settings.accuracy_tolerance`` below that
    there, the ones with the most local modules, and of these the one that adds the fewest MACs. Without a budget
    ``tolerance`` considers positions behind the image only where ``settings.inner_tolerance`` lets them, and whole
    sources only where no part comes near (``WORTH_THE_WHOLE``).

    Args:
        rows: By source.
        settings: How to choose.
        budget: What the chosen may add together.
        together: Measures a row per source in one network, for several sources; without it losses are summed and
            accuracies averaged.

    Raises:
        UserError: Nothing fits the budget; with the nearest.
    """
    budget = budget or AddedBudget()
    if settings.name == "tolerance" and budget.is_open:
        rows = [_parts(_earned(table, settings.inner_tolerance)) for table in rows]
    if len(rows) == 1:
        together = None
    fitting = _fitting([list(table) if together else _front(table) for table in rows], budget)
    if together is not None:
        nearest = sorted(fitting, key=lambda found: (found.loss, found.added_macs))[:MAX_TOGETHER]
        fitting = [together(found.rows) for found in nearest]
    best = min(fitting, key=lambda found: (found.loss, found.added_macs, [row.position for row in found.rows]))
    if settings.name == "search":
        return best.rows
    most_loss = settings.tolerance * max(best.loss, len(rows) * LOSS_FLOOR)
    least_accuracy = best.accuracy - settings.accuracy_tolerance
    near = [found for found in fitting if found.loss <= most_loss and found.accuracy >= least_accuracy]
    return min(near, key=lambda found: (-found.num_local, found.added_macs, found.added_params, found.loss)).rows


def _fitting(tables: list[list[PositionResult]], budget: AddedBudget) -> list[Combination]:
    """All combinations of the tables' rows that fit; of too many those that are cheap or have small losses."""
    while math.prod(map(len, tables)) > MAX_COMBINATIONS:
        longest = max(tables, key=len)
        cheapest = [min(longest, key=lambda row: row.added_macs), min(longest, key=lambda row: row.added_params)]
        others = [row for row in longest if row not in cheapest]
        longest.remove(max(others or longest, key=lambda row: row.loss))
    found = [Combination.summed(rows) for rows in itertools.product(*tables)]
    if fitting := [one for one in found if budget.admits(one.added_params, one.added_macs)]:
        return fitting
    nearest = min(
        found, key=lambda one: max(_share(one.added_macs, budget.max_macs), _share(one.added_params, budget.max_params))
    )
    needed = AddedBudget(
        None if budget.max_params is None else nearest.added_params,
        None if budget.max_macs is None else nearest.added_macs,
    )
    raise UserError(
        f"{budget.typed}: no clones add so little; the nearest add {nearest.added_macs:,} MACs and "
        f"{nearest.added_params:,} parameters: type {needed.typed}"
    )


def _earned(table: Sequence[PositionResult], tolerance: float) -> list[PositionResult]:
    """The rows without those behind the image whose loss is above so many times the least loss there."""
    at_image = [row.loss for row in table if row.position == 0]
    bound = tolerance * min(at_image, default=math.inf)
    return [row for row in table if row.position == 0 or row.loss <= bound]


def _parts(table: Sequence[PositionResult]) -> list[PositionResult]:
    """The rows without those of the whole source, unless every part loses too much."""
    parts = [row for row in table if not row.share.is_whole]
    whole = min((row.loss for row in table if row.share.is_whole), default=math.inf)
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
