"""The comparison of one split, in parallel jobs, and what all splits say together."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial

import numpy as np

from benchmarks.common import workers
from benchmarks.fronts.contenders import CONTENDERS, RIVALS, best
from benchmarks.fronts.recipes import Recipe, costs, with_head
from benchmarks.fronts.rows import hits, tuned
from benchmarks.fronts.statistics import Interval, area_between, bootstrap
from benchmarks.fronts.task import Question, Task, open_task
from reassembly.settings import Budget
from zoo.blueprint import BlockSpec
from zoo.errors import UserError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where in the comparison: a contender at a budget, in a mode, on a split.

    Attributes:
        seed: Of the split.
        mode: ``probe``, ``freeze`` or ``full``.
        unit: ``params`` or ``macs``.
        limit: The budget.
        contender: Of ``CONTENDERS``.
    """

    seed: int
    mode: str
    unit: str
    limit: int
    contender: str

    @property
    def budget(self) -> Budget:
        """As the search takes it."""
        return Budget(**{f"max_{self.unit}": self.limit})


@dataclass(frozen=True)
class Point:
    """What a contender reached at its place.

    Attributes:
        place: Where.
        network: What validation chose among its networks.
        num_params: Of it, head included.
        macs: Of an image.
        num_trained: Parameters that the mode trains.
        num_tuned: Networks that validation decided between.
        val_accuracy: In [0, 1].
        hits: Which test images it gets right.
    """

    place: Place
    network: str
    num_params: int
    macs: int
    num_trained: int
    num_tuned: int
    val_accuracy: float
    hits: np.ndarray

    @property
    def test_accuracy(self) -> float:
        """In [0, 1]."""
        return float(self.hits.mean())

    def record(self) -> dict:
        """As plain data, without the single images."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("place", "hits")}
        return {**asdict(self.place), **kept, "test_accuracy": round(self.test_accuracy, 6)}


@lru_cache(maxsize=1)
def _task(question: Question, seed: int) -> Task:
    return open_task(question, seed)


def point(question: Question, place: Place) -> Point | None:
    """Runs one contender at one place, as far as its rows are not stored; None where it has nothing that fits."""
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    task = _task(question, place.seed)
    found = CONTENDERS[place.contender](task, place.budget, place.mode)
    recipes = [with_head(recipe, task, place.budget) for recipe in found]
    if not recipes:
        return None
    chosen = best(task, recipes, place.mode)
    row = tuned(task, chosen, place.mode)
    cost = costs(replace(chosen, head_inputs=row.head_inputs), task)
    return Point(
        place,
        str(chosen),
        cost.num_params,
        cost.macs,
        row.num_trained,
        len(recipes),
        row.val_accuracy,
        hits(task, chosen, place.mode).numpy(),
    )


def run(question: Question, places: Sequence[Place], num_jobs: int) -> Iterator[Point]:
    """The points of all places where there is one, each as soon as it is known; jobs share what is stored."""
    if num_jobs == 1:
        found: Iterable[Point | None] = map(partial(point, question), places)
        yield from filter(None, found)
        return
    with workers(num_jobs) as pool:
        yield from filter(None, pool.map(partial(point, question), places))


def budgets(task: Task, unit: str, count: int) -> list[int]:
    """``count`` budgets in equal ratios, from half of the smallest whole network to a tenth above the largest one."""
    networks = [entry.candidate for entry in task.catalogue.candidates if entry.candidate.kind == "network"]
    sizes = [candidate.num_params if unit == "params" else candidate.macs for candidate in networks]
    return [round(limit) for limit in np.geomspace(min(sizes) / 2, 1.1 * max(sizes), count)]


def smallest(task: Task, unit: str) -> tuple[str, int]:
    """What costs least of all compositions and of all networks cut off at any node, and its cost, head included."""
    candidates = [entry.candidate for entry in task.catalogue.candidates]
    found = [(c.num_params if unit == "params" else c.macs, c.composition) for c in candidates]
    for name, description in task.descriptions.items():
        for stop in range(1, len(description)):
            recipe = Recipe((BlockSpec(name, (0, stop)),))
            cost = costs(recipe, task)
            found.append((cost.num_params if unit == "params" else cost.macs, str(recipe)))
    cost, name = min(found)
    return name, cost


def require_points(
    task: Task, points: Iterable[Point], modes: Sequence[str], limits: Mapping[str, Sequence[int]], names: Sequence[str]
) -> None:
    """Refuses to tell of a mode and a unit in which no contender has a network.

    Raises:
        UserError: The first of them, and what to type.
    """
    found = {(own.place.mode, own.place.unit) for own in points}
    for mode, unit in itertools.product(modes, limits):
        if (mode, unit) in found:
            continue
        (name, size), largest = smallest(task, unit), max(limits[unit])
        if largest < size:
            raise UserError(
                f"nothing fits {largest:,} {unit}; the smallest network there is, {name}, takes {size:,}: "
                f"type --units {unit} --limits {size}, or more"
            )
        raise UserError(
            f"--contenders {' '.join(names)}: none has a network in mode {mode} that fits {largest:,} {unit}: "
            f"name others, type larger --limits, or type --modes without {mode}"
        )


def with_rival(points: Iterable[Point]) -> list[Point]:
    """All points and, at every place, the best of ``RIVALS`` on validation as the contender ``rival``."""
    points = list(points)
    found: dict[tuple, Point] = {}
    for own in points:
        place = own.place
        where = (place.seed, place.mode, place.unit, place.limit)
        if place.contender in RIVALS and (where not in found or own.val_accuracy > found[where].val_accuracy):
            found[where] = own
    return points + [replace(own, place=Place(*where, "rival")) for where, own in found.items()]


@dataclass(frozen=True)
class Front:
    """A contender's accuracies in one mode and unit, and how far another one is above it.

    Attributes:
        accuracies: By budget, of the splits that all contenders have there.
        differences: By budget, of the pick minus this one; for ``finalists`` of these minus the best rival.
        area: Between the two fronts, over the budgets that both have.
    """

    accuracies: Mapping[int, Interval]
    differences: Mapping[int, Interval]
    area: Interval | None


def fronts(points: Sequence[Point], mode: str, unit: str) -> dict[str, Front]:
    """Every contender's front, by name; ``rival`` is the best of ``RIVALS`` on validation."""
    table: dict[str, dict[int, dict[int, np.ndarray]]] = {}
    for own in with_rival(points):
        if (own.place.mode, own.place.unit) == (mode, unit):
            at_budget = table.setdefault(own.place.contender, {}).setdefault(own.place.limit, {})
            at_budget[own.place.seed] = own.hits
    picks, rival, found = table.get("pick", {}), table.get("rival", {}), {}
    for name, by_budget in table.items():
        accuracies = {limit: bootstrap(list(by_seed.values())) for limit, by_seed in sorted(by_budget.items())}
        mine, theirs = (by_budget, rival) if name == "finalists" else (picks, by_budget)
        found[name] = Front(accuracies, *(({}, None) if name == "pick" else _difference(mine, theirs)))
    return found


ByBudget = Mapping[int, Mapping[int, np.ndarray]]
"""Which test images are right, by budget and split."""


def _difference(first: ByBudget, second: ByBudget) -> tuple[dict[int, Interval], Interval | None]:
    """One contender minus another, where both have something: by budget, and the area between them."""
    pairs = {  # by budget, the two sides of the splits that both have
        limit: {seed: (first[limit][seed], hits) for seed, hits in by_seed.items() if seed in first[limit]}
        for limit, by_seed in sorted(second.items())
        if limit in first
    }
    pairs = {limit: by_seed for limit, by_seed in pairs.items() if by_seed}
    differences = {
        limit: bootstrap([mine.astype(float) - theirs for mine, theirs in by_seed.values()])
        for limit, by_seed in pairs.items()
    }
    if not (everywhere := set.intersection(*map(set, pairs.values())) if pairs else set()):
        return differences, None
    mine, theirs = (
        [[by_seed[seed][side] for seed in sorted(everywhere)] for by_seed in pairs.values()] for side in (0, 1)
    )
    return differences, area_between(mine, theirs, list(pairs))


def places(
    seeds: Iterable[int], modes: Sequence[str], limits: Mapping[str, Sequence[int]], contenders: Sequence[str]
) -> list[Place]:
    """Everything that is compared, split by split."""
    return [
        Place(seed, mode, unit, limit, contender)
        for seed, mode, unit in itertools.product(seeds, modes, limits)
        for limit, contender in itertools.product(limits[unit], contenders)
    ]
