"""Which compositions are scored: all that fit, or of very many those that the 0-1 programme predicts to be best."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reassembly.assembly import Candidate, CostTable, ScoredCandidate, infeasible
from reassembly.enumeration import PathCosts, Paths, feasible_paths
from reassembly.partition import Partition
from reassembly.programme import Limit, Programme, best_paths, clashing_limits, diverse_paths, pareto_paths
from reassembly.programme.front import undominated
from reassembly.programme.tables import Table
from reassembly.proxies import Proxy
from reassembly.settings import UNITS, Budget, CompositionSettings, in_limit, unit_of
from zoo.blueprint import BlockSpec
from zoo.errors import UserError

MAX_LISTED = 1_000_000
"""Compositions that are listed one by one; beyond, only the programme chooses among them."""


@dataclass(frozen=True)
class Question:
    """Which compositions are admitted.

    Attributes:
        table: Of blocks and costs.
        budget: On parameters and MACs.
        limits: On the networks and equivalence sets that a composition takes its blocks from.
        others: Candidates of one network each that are no paths of the table (``single_network_candidates``).
    """

    table: CostTable
    budget: Budget
    limits: tuple[Limit, ...]
    others: tuple[Candidate, ...] = ()

    def programme(self, value: PathCosts | None = None) -> Programme:
        """The programme that maximises ``value``; without one, every admitted composition is as good."""
        costs, (low, high) = self.table.costs, self._bounds()
        nothing = PathCosts(*(np.zeros((1, *part.shape[1:])) for part in costs.parts()))
        return Programme(value or nothing, costs, np.array(low, np.int64), np.array(high, np.int64), self.limits)

    def _bounds(self) -> list[tuple[int, ...]]:
        """On the costs that the table has."""
        return [side[: len(self.table.costs.unary)] for side in self.budget.bounds()]

    def admitted(self) -> Iterator[Paths]:
        """All of them, in chunks: shorter ones first, then in the order of the networks."""
        low, high = map(np.asarray, self._bounds())
        for length in range(1, self.table.costs.num_stages + 1):
            for paths in feasible_paths(self.table.costs, low, high, length):
                inside = np.ones(len(paths), bool)
                for limit in self.limits:
                    taken = limit.weights[np.arange(length), paths.items].sum(1)
                    inside &= (limit.low <= taken) & (taken <= limit.high)
                yield Paths(paths.items[inside], paths.costs[:, inside])

    def origins(self) -> list[str]:
        """Networks that a composition may begin with or go on from, as far as each limit alone can tell."""
        programme = self.programme()
        seams = Table(programme).promising(np.zeros(len(programme.low) + len(self.limits)), -np.inf)
        names = [block.network for block in self.table.blocks[0]]
        return [
            name
            for i, name in enumerate(names)
            if programme.admits((i,)) or any((before == i).any() for before, _ in seams)
        ]

    def unmixed(self) -> list[Candidate]:
        """The admitted whole and truncated networks."""
        programme, stages = self.programme(), self.table.costs.num_stages
        paths = [(i,) * m for m in range(1, stages + 1) for i in range(self.table.costs.num_items)]
        return [*(self.candidate(path) for path in paths if programme.admits(path)), *self.admitted_others()]

    def admitted_others(self, programme: Programme | None = None) -> list[Candidate]:
        """Of the candidates that are no paths of the table, those that keep the limits of a programme, or its own."""
        programme = programme or self.programme()
        items = {block.network: i for i, block in enumerate(self.table.blocks[0])}
        return [
            other
            for other in self.others
            if programme.keeps([items[block.network] for block in other.blocks], other.costs[: len(programme.low)])
        ]

    def candidate(self, path: Sequence[int]) -> Candidate:
        """The composition of a path."""
        return self.table.candidate(path, self.table.costs.total(path))


@dataclass(frozen=True)
class Listing:
    """The admitted compositions.

    Attributes:
        candidates: All of them, or None where there are too many to score.
        num_fitting: How many there are; where more than ``MAX_LISTED``, that number.
    """

    candidates: list[Candidate] | None
    num_fitting: int


def ask(
    table: CostTable,
    partition: Partition,
    budget: Budget,
    settings: CompositionSettings | None = None,
    others: Iterable[Candidate] = (),
) -> Question:
    """The question that a budget, the partition's equivalence sets and the user's wishes put.

    Args:
        table: Of blocks and costs.
        partition: That they come from.
        budget: On parameters and MACs.
        settings: The wishes.
        others: Candidates that are no paths of the table.

    Raises:
        UserError: A network named in the settings that the zoo lacks.
    """
    settings = settings or CompositionSettings()
    names = [block.network for block in table.blocks[0]]
    shape = table.costs.unary.shape[1:]

    def of(name: str, key: str) -> np.ndarray:
        if name not in names:
            raise UserError(f"composition.{key} names {name!r}, which the zoo lacks: allowed are {', '.join(names)}")
        weights = np.zeros(shape, np.int64)
        weights[:, names.index(name)] = 1
        return weights

    limits = [Limit(f"composition.required=[{name}]", of(name, "required"), low=1) for name in settings.required]
    limits += [Limit(f"composition.forbidden=[{name}]", of(name, "forbidden"), high=0) for name in settings.forbidden]
    if (most := settings.max_blocks_per_network) is not None:
        key = f"composition.max_blocks_per_network={most}"
        limits += [Limit(key, of(name, "required"), high=most) for name in names]
    for key, count in (("min_blocks", settings.min_blocks), ("required", len(set(settings.required)))):
        if count > shape[0]:
            raise UserError(
                f"composition.{key} asks for {count} blocks or more: a composition has at most "
                f"partition.num_blocks={shape[0]}; type less, or a larger partition.num_blocks=..."
            )
    if settings.min_blocks > 1:
        limits.append(Limit(f"composition.min_blocks={settings.min_blocks}", np.ones(shape, int), settings.min_blocks))
    if settings.max_blocks is not None:
        key = f"composition.max_blocks={settings.max_blocks}"
        limits.append(Limit(key, np.ones(shape, int), high=settings.max_blocks))
    return Question(table, budget, (*limits, *_one_of_each_set(table, partition)), tuple(others))


def _one_of_each_set(table: CostTable, partition: Partition) -> list[Limit]:
    """At most one block of every equivalence set; in stage mode every composition keeps that.

    In mode ``nearest`` two stages of one network may be in one set, and there is no such limit: stages alone decide.
    """
    if partition.settings.mode == "nearest":
        return []
    sets = {
        BlockSpec(name, (cuts[k], cuts[k + 1])): sets[k]
        for name, cuts, sets in zip(partition.networks, partition.cuts, partition.sets, strict=True)
        for k in range(partition.num_blocks)
    }
    of = np.array([[sets[block] for block in row] for row in table.blocks])
    if (of == of[:, :1]).all():
        return []
    return [Limit("partition.mode", (of == number).astype(np.int64), high=1) for number in np.unique(of)]


def list_admitted(question: Question, max_assemblies: int | None) -> Listing:
    """Lists all admitted compositions, if they are few enough to be scored.

    Args:
        question: Which are admitted.
        max_assemblies: How many, beside whole and truncated networks; None for all.

    Raises:
        UserError: None is admitted: the smallest set of limits that clash and the nearest composition; or all are
            wanted, and they are more than ``MAX_LISTED``.
    """
    found: list[Paths] = []
    count = num_assemblies = 0
    for paths in question.admitted():
        count += len(paths)
        num_assemblies += int((paths.items != paths.items[:, :1]).any(1).sum())
        if count > MAX_LISTED:
            if max_assemblies is None:
                raise UserError(
                    f"more than {MAX_LISTED:,} compositions fit {question.budget}: narrow it, e.g. type "
                    "budget.min_macs=... budget.max_macs=..., or score the most promising, e.g. type "
                    "proxy=ridge proxy.max_scored=1000"
                )
            return Listing(None, MAX_LISTED)
        if max_assemblies is None or num_assemblies <= max_assemblies:
            found.append(paths)
    others = question.admitted_others()
    count += len(others)
    if not count:
        raise UserError(_nothing_fits(question))
    if max_assemblies is not None and num_assemblies > max_assemblies:
        return Listing(None, count)
    candidates = [
        question.table.candidate(path, costs)
        for paths in found
        for path, costs in zip(paths.items.tolist(), paths.costs.T.tolist(), strict=True)
    ]
    return Listing(candidates + others, count)


def promising(
    question: Question, value: PathCosts, max_assemblies: int, min_difference: int = 1, *, front: bool = False
) -> tuple[list[Candidate], list[float]]:
    """The assemblies of greatest additive value, with all admitted whole and truncated networks, and their values.

    Of what is no path of the table nothing is predicted (``-inf``).

    Args:
        question: Which are admitted.
        value: The additive prediction, to maximise.
        max_assemblies: How many of them at most.
        min_difference: In so many stages any two of them differ at least.
        front: Also those that no other beats in value and all costs together.
    """
    programme, unmixed = question.programme(value), question.unmixed()
    others = set(question.others)
    found: dict[tuple[int, ...], None] = {}
    wanted = max_assemblies + len(unmixed)
    if front:
        found.update((solution.path, None) for solution in pareto_paths(programme))
    best = best_paths(programme, wanted) if min_difference == 1 else diverse_paths(programme, wanted, min_difference)
    of_best = [solution.path for solution in best if len(set(solution.path)) > 1]
    found.update((path, None) for path in of_best[:max_assemblies])
    assemblies = [path for path in found if len(set(path)) > 1]
    names = {block: i for row in question.table.blocks for i, block in enumerate(row)}
    predicted = [
        -math.inf if candidate in others else programme.value_of([names[block] for block in candidate.blocks])
        for candidate in unmixed
    ]
    candidates = [*unmixed, *(question.candidate(path) for path in assemblies)]
    return candidates, [*predicted, *map(programme.value_of, assemblies)]


def undominated_candidates(scored: Sequence[ScoredCandidate], proxy: Proxy) -> list[ScoredCandidate]:
    """Those that no other one beats in all costs and score together, cheapest first."""
    sign = -1 if proxy.higher_is_better else 1
    finite = [entry for entry in scored if math.isfinite(entry.scores[proxy.name])]
    num_costs = 3 if any(e.candidate.latency_ns for e in finite) else 2
    points = [(*e.candidate.costs[:num_costs], sign * e.scores[proxy.name]) for e in finite]
    return [finite[n] for n in sorted(undominated(np.array(points, float)), key=lambda n: points[n])]


def content_digest(candidates: Iterable[Candidate]) -> str:
    """Names the candidates with their costs; there may be a million."""
    sha256 = hashlib.sha256()
    for candidate in candidates:
        sha256.update(f"{candidate.blocks} {candidate.is_adapted} {candidate.num_params} {candidate.macs}\n".encode())
    return sha256.hexdigest()


def _nothing_fits(question: Question) -> str:
    """One line: which limits clash, and the nearest composition where the budget is to blame."""
    units = UNITS[: len(question.table.costs.unary)]
    names = [f"budget.{side}_{unit}" for side in ("min", "max") for unit in units]
    clash = clashing_limits(question.programme(), names, lambda limits: bool(question.admitted_others(limits)))
    values = {f"budget.{name}": value for name, value in question.budget.limits().items()}
    told = [f"{name}={values[name]}" if name in values else name for name in dict.fromkeys(clash)]
    if not question.limits:
        return infeasible(question.table, question.budget, told, question.others)
    if told == ["partition.mode"]:
        return (
            f"no composition within {question.budget} takes its blocks from different equivalence sets: widen the "
            "budget, or type partition.mode=stage"
        )
    ways = [way for name in clash if name in values and (way := _nearest_limit(question, name.removeprefix("budget.")))]
    advice = " or ".join([*ways, *(["partition.mode=stage"] if "partition.mode" in told else [])])
    return f"no composition keeps {' and '.join(told)}: " + (f"type {advice}" if advice else "lift one of these limits")


def _nearest_limit(question: Question, name: str) -> str | None:
    """The value of one limit of the budget, exact, at which something keeps all the others; None if nothing does."""
    unit, sign = unit_of(name), -1 if name.startswith("max") else 1
    value = PathCosts(*(sign * part[unit : unit + 1].astype(float) for part in question.table.costs.parts()))
    rest = replace(question, budget=question.budget.without([name]))
    found = [solution.costs[unit] for solution in best_paths(rest.programme(value))]
    found += [other.costs[unit] for other in rest.admitted_others()]
    return f"budget.{name}={in_limit(unit, sign * max(sign * cost for cost in found))}" if found else None
